"""Run the official dual-AR network and write down what it does. For the reference environment.

    <its python> tests/parity/dual_ar_oracle.py JOB.json RESULT.pt

The job is a list of tasks, each ``{"task": <function below>, "name": <key of its result>, ...}``.
Nothing of this project's product is imported, and nothing of the official package is copied.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from tests.parity import reference_stubs  # noqa: F401  (must come before fish_speech)
from tests.parity.tiny_checkpoint import exponential_noise, weight_values

torch.set_num_threads(1)

from fish_speech.content_sequence import (  # type: ignore[import-not-found]  # noqa: E402
    ContentSequence,
    TextPart,
    VQPart,
)
from fish_speech.models.text2semantic import inference  # type: ignore[import-not-found]  # noqa: E402
from fish_speech.tokenizer import FishTokenizer  # type: ignore[import-not-found]  # noqa: E402

SAMPLED_LOGITS = 1024  # the official sampler cuts the fast head here
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def token_ids(task: dict[str, Any]) -> list[list[int]]:
    """Tokenize each text; ``allowed_special`` as given."""
    tokenizer = FishTokenizer.from_pretrained(task["directory"])
    return [
        tokenizer.encode(text, allowed_special=task["allowed_special"]) for text in task["texts"]
    ]


def prompt(task: dict[str, Any]) -> torch.Tensor:
    """Lay out references ``[[text, codes], ...]`` and ``text``."""
    sequence = ContentSequence(modality="interleave")
    for text, codes in task["references"]:
        parts = [TextPart(text=text), VQPart(codes=torch.tensor(codes))]
        sequence.append(parts, add_end=True, speaker=0)
    sequence.append([TextPart(text=task["text"])], add_end=False, speaker=0)
    tokenizer = FishTokenizer.from_pretrained(task["directory"])
    rows, _, _ = sequence.encode_for_inference(tokenizer, num_codebooks=10)
    return rows.long()


def forward(task: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Slow pass over a prompt and fast passes over given codes.

    ``hidden`` are all positions before the final norm, ``logits`` and ``projected`` the last one,
    ``fast_logits`` ``[K - 1, 1024]`` what the official sampler reads to draw codes 1..K - 1.
    """
    model = _model(task)
    rows = torch.tensor(task["rows"])
    seen: list[torch.Tensor] = []
    hook = model.layers[-1].register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.inference_mode():
        result = model.forward_generate(rows[None], torch.arange(rows.shape[1]))
        hook.remove()
        for layer in model.fast_layers:
            layer.attention.kv_cache.k_cache.zero_()
            layer.attention.kv_cache.v_cache.zero_()
        x, fast = result.hidden_states, []
        for position, code in enumerate(task["codes"]):
            fast.append(model.forward_generate_fast(x, torch.tensor([position]))[0, -1])
            x = model.fast_embeddings(torch.tensor([code]))
    return {
        "hidden": seen[0][0].float(),
        "logits": result.logits[0, -1].float(),
        "projected": result.hidden_states[0, -1].float(),
        "fast_logits": torch.stack(fast[1:])[:, :SAMPLED_LOGITS].float(),
    }


def generate(task: dict[str, Any]) -> torch.Tensor:
    """Speak ``rows``: every frame that was drawn, ``[1 + K, F]``, the end frame included.

    ``mode`` is ``greedy``, or ``noise``: the official sampler with ``exponential_noise`` in place
    of its random numbers. Slow logits outside speech are masked, which the official sampler does
    not do; without it a text token can become a frame.
    """
    model = _model(task)
    rows = torch.tensor(task["rows"], dtype=torch.int32)
    tokenizer = model.tokenizer
    legal = torch.full((model.config.vocab_size,), float("-inf"))
    legal[tokenizer.semantic_begin_id : tokenizer.semantic_end_id + 1] = 0.0
    legal[tokenizer.get_token_id("<|im_end|>")] = 0.0
    inner = model.forward_generate

    def constrained(*args: Any, **kwargs: Any) -> Any:
        result = inner(*args, **kwargs)
        result.logits = result.logits + legal
        return result

    draws = iter(range(sys.maxsize))

    def draw(probabilities: torch.Tensor) -> torch.Tensor:
        if task["mode"] == "greedy":
            return probabilities.argmax(-1, keepdim=True).to(torch.int)
        noise = exponential_noise(task["seed"], next(draws), probabilities.shape[-1])
        return (probabilities / noise).argmax(-1, keepdim=True).to(torch.int)

    model.forward_generate = constrained
    official_draw = inference.multinomial_sample_one_no_sync
    inference.multinomial_sample_one_no_sync = draw
    try:
        sequence = inference.generate(
            model=model,
            prompt=rows,
            max_new_tokens=task["max_new_tokens"],
            audio_masks=None,
            audio_parts=None,
            temperature=task["temperature"],
            top_p=task["top_p"],
            repetition_penalty=1.0,
        )
    finally:
        inference.multinomial_sample_one_no_sync = official_draw
    return sequence[:, rows.shape[1] :].long()


def sampling_steps(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Single draws of the official sampler with recorded noise.

    Each case has ``logits`` ``[N]``, ``temperature``, ``top_p``, ``repetition_penalty`` and
    ``recent``; the result adds ``noise`` ``[N]``, ``probabilities`` ``[N]`` and ``chosen``.
    """
    steps = []
    for index, case in enumerate(task["cases"]):
        size = case["size"]
        logits = 4.0 * weight_values(f"logits {index}", [size])
        recent = torch.tensor(case["recent"], dtype=torch.long)
        settings = {
            key: torch.tensor(case[key], dtype=torch.bfloat16)
            for key in ("temperature", "top_p", "repetition_penalty")
        }
        probabilities = inference.logits_to_probs(
            logits.clone(), **settings, previous_tokens=recent if len(recent) else None
        )
        noise = exponential_noise(task["seed"], index, size)
        chosen = int((probabilities / noise).argmax())
        steps.append(
            {**case, "logits": logits, "noise": noise, "probabilities": probabilities}
            | {"recent": recent, "chosen": chosen}
        )
    return steps


def _model(task: dict[str, Any]) -> Any:
    model, _ = inference.init_model(task["directory"], "cpu", DTYPES[task["dtype"]])
    return model


def main() -> None:
    """Carry out the job."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    known = {f.__name__: f for f in (token_ids, prompt, forward, generate, sampling_steps)}
    results = {task["name"]: known[task["task"]](task) for task in job["tasks"]}
    torch.save(results, sys.argv[2])


if __name__ == "__main__":
    main()
