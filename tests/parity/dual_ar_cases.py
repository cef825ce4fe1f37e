"""What is compared with the official package, written once for the live test and the goldens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backend.models.prompt import build_prompt
from backend.models.tokenizer import Tokenizer
from tests.parity.tiny_checkpoint import VARIANTS, codes_like_noise, write_tiny_checkpoint

TEXTS = [
    "",
    "Hello there, how are you today?",
    "Elmo's 12345 test!!!\n\r\n  multiple   spaces\ttab",
    "你好，世界。今天天气很好。",  # noqa: RUF001
    "(excited) It costs $5.50, ok? 100%!",
    "a b  c   d\n\n\ne ?!x   ?!y \r\n z",
    "DON'T we'Ll they'RE 'tis \u2019tis e\u0301 ﬁ ½ Ⅷ 👩‍👩‍👧 \x1c\x1f \u00a0\u3000x",
    "<|im_end|> <|speaker:0|> <|semantic:5|>",
]
TEMPLATES = ["<|speaker:0|>", "<|interleave|>", "<|interleave|><|speaker:0|>hi<|im_end|>"]
SPOKEN = "The quick brown fox jumps over the lazy dog."
REFERENCES: dict[str, list[tuple[str, int]]] = {  # text and number of frames
    "alone": [],
    "cloned": [("Seven wizards quietly observe.", 9)],
    "continued": [("Hello there.", 7), ("你好。", 1), ("It's 12345 (laughing)!", 5)],
}
NUM_FRAMES = 120
SEED = 7
TEMPERATURE, TOP_P = 0.75, 0.8125  # exact in bfloat16, in which the official sampler keeps them

SAMPLING_CASES: list[dict[str, Any]] = [
    {"size": size, "temperature": t, "top_p": p, "repetition_penalty": r, "recent": recent}
    for size, t, p, r, recent in (
        (64, 1.0, 1.0, 1.0, []),
        (64, 0.75, 1.0, 1.0, []),
        (64, 1.0, 0.5, 1.0, []),
        (64, 1.0, 0.125, 1.0, []),
        (256, 0.75, 0.8125, 1.0, []),
        (256, 0.125, 0.8125, 1.0, []),
        (256, 1.75, 0.9375, 1.0, []),
        (256, 0.75, 0.8125, 1.125, [3, 3, 200, 41]),
        (64, 1.0, 1.0, 1.5, list(range(32))),
        (64, 1.0, 0.75, 0.5, [5, 9]),
    )
]


class Turn:
    """A reference with made-up codes."""

    def __init__(self, text: str, num_frames: int) -> None:
        self.text = text
        self.codes = codes_like_noise(text, num_frames)


def turns(case: str) -> list[Turn]:
    return [Turn(text, num_frames) for text, num_frames in REFERENCES[case]]


def write_checkpoints(folder: Path) -> dict[str, Path]:
    return {name: write_tiny_checkpoint(folder / name, name) for name in VARIANTS}


def oracle_tasks(directories: dict[str, Path]) -> list[dict[str, Any]]:
    """Tasks for ``dual_ar_oracle.py``. Its networks read the rows that ``build_prompt`` made, which
    the prompt tasks compare with the official ones."""
    tasks: list[dict[str, Any]] = [
        {"task": "sampling_steps", "name": "sampling", "cases": SAMPLING_CASES, "seed": SEED}
    ]
    for variant, directory in directories.items():
        common = {"directory": str(directory), "dtype": "fp32"}
        for kind, texts, allowed in (("texts", TEXTS, False), ("templates", TEMPLATES, True)):
            name = f"{variant}/{kind}"
            task = {"task": "token_ids", "name": name, "texts": texts, "allowed_special": allowed}
            tasks.append({**common, **task})
        for case in REFERENCES:
            references = [[turn.text, turn.codes.tolist()] for turn in turns(case)]
            task = {"task": "prompt", "text": SPOKEN, "references": references}
            tasks.append({**common, **task, "name": f"{variant}/{case}/prompt"})
            tasks += _network_tasks(common, variant, case, directory)
    return tasks


def _network_tasks(
    common: dict[str, Any], variant: str, case: str, directory: Path
) -> list[dict[str, Any]]:
    tokenizer = Tokenizer.from_directory(directory)
    rows = build_prompt(tokenizer, SPOKEN, turns(case), 10).tolist()
    frame = codes_like_noise("frame", 1)[:, 0].tolist()
    forward = {**common, "task": "forward", "rows": rows, "codes": frame}
    speech = {**common, "task": "generate", "rows": rows, "max_new_tokens": NUM_FRAMES}
    greedy = {"mode": "greedy", "temperature": 1.0, "top_p": 1.0}
    noise = {"mode": "noise", "temperature": TEMPERATURE, "top_p": TOP_P, "seed": SEED}
    return [
        {**forward, "name": f"{variant}/{case}/forward"},
        {**forward, "name": f"{variant}/{case}/forward_bf16", "dtype": "bf16"},
        {**speech, **greedy, "name": f"{variant}/{case}/greedy"},
        {**speech, **noise, "name": f"{variant}/{case}/noise"},
    ]
