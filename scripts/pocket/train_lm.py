"""Train the dual-AR on encoded speech, within a time budget.

Loss: the next semantic or end token (slow) and the residual codes of a sample of the frames (fast).
Some input codes are replaced by random ones, so that a sampling error does not derail the model.
The averaged weights that are best on held-out utterances are what is saved.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.pocket.captured import CapturedStep
from scripts.pocket.curves import Curves
from scripts.pocket.lm_files import load_lm, save_lm
from scripts.pocket.lm_net import DualAR, LMSizes
from scripts.pocket.lm_rows import Batch, RowStore


@dataclass(frozen=True)
class LMTraining:
    """How to train."""

    minutes: float
    rows: int = 48
    row_length: int = 896
    fast_frames: int = 12288
    peak_lr: float = 1.5e-3
    weight_decay: float = 0.05
    corrupted: float = 0.04
    default_share: float = 0.08
    ema: float = 0.999
    warm_up: int = 300
    has_graph: bool = True


class LMTrainer:
    """Network, optimizer and the step."""

    def __init__(self, net: DualAR, training: LMTraining, device: torch.device) -> None:
        self.training, self.device, self.sizes = training, device, net.sizes
        self.net = net.to(device).train()
        self.averaged = copy.deepcopy(self.net).eval().requires_grad_(False)
        is_cuda = device.type == "cuda"
        self._lr = torch.tensor(0.0, device=device)
        groups = [
            {"params": [p for p in net.parameters() if p.ndim > 1]},
            {"params": [p for p in net.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, self._lr if is_cuda else 0.0, (0.9, 0.98), weight_decay=training.weight_decay,
            fused=is_cuda, capturable=is_cuda,
        )  # fmt: skip
        self._step = CapturedStep(self._train_once, is_enabled=training.has_graph)

    def compile_blocks(self) -> None:
        """Fuse the pointwise work inside the transformer blocks."""
        for block in (*self.net.layers, *self.net.fast_layers):
            block.compile(dynamic=False)

    def set_rate(self, lr: float) -> None:
        """Learning rate from now on."""
        self._lr.fill_(lr)
        if self.device.type != "cuda":
            for group in self.optimizer.param_groups:
                group["lr"] = lr

    def step(self, batch: Batch) -> Tensor:
        """One step; returns slow loss, fast loss and token accuracy, to be read later."""
        return self._step(batch.rows, batch.is_judged)

    def _train_once(self, rows: Tensor, is_judged: Tensor) -> Tensor:
        given = self._corrupt(rows)
        slow, fast, accuracy, _ = self.losses(
            self.net, given, rows, is_judged, self.training.fast_frames
        )
        self.optimizer.zero_grad(set_to_none=True)
        (slow + fast).backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
                list(self.averaged.parameters()), list(self.net.parameters()),
                1 - self.training.ema,
            )  # fmt: skip
            return torch.stack([slow.detach(), fast.detach(), accuracy])

    def losses(
        self, net: DualAR, given: Tensor, rows: Tensor, is_judged: Tensor, fast_frames: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Slow loss, fast loss, token accuracy, fast loss per codebook ``[K]``.

        Args:
            net: the network to ask.
            given: ``[B, T + 1, 1 + K]`` what it reads.
            rows: the same without corruption, what it should say.
            is_judged: ``[B, T + 1]``.
            fast_frames: frames whose residual codes are predicted.
        """
        s = self.sizes
        is_cuda = self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_cuda, cache_enabled=False):
            hidden, normed = net.slow(given[:, :-1].transpose(1, 2))
            target, wanted = rows[:, 1:, 0], is_judged[:, 1:]
            logits = net.token_logits(normed).flatten(0, 1).float()
            labels = torch.where(wanted, target, -100).flatten()
            slow = F.cross_entropy(logits, labels, ignore_index=-100)
            hits = (logits.argmax(-1) == labels).float().sum()
            accuracy = hits / wanted.sum().clamp(min=1)
            is_frame = wanted & (target >= s.semantic_begin) & (target < s.speaker)
            # Random frames without a look at the host: frames score 1..2, all else 0..1.
            score = is_frame.flatten() + torch.rand(is_frame.numel(), device=rows.device)
            picked = score.topk(min(fast_frames, len(score)), sorted=False).indices
            codes = rows[:, 1:, 1:].flatten(0, 1)[picked]
            fast_logits = net.fast(hidden.flatten(0, 1)[picked], codes[:, :-1])
        each = F.cross_entropy(
            fast_logits.flatten(0, 1).float(), codes.flatten(), reduction="none"
        ).view(codes.shape)
        real = is_frame.flatten()[picked].float()[:, None]
        per_book = (each * real).sum(0) / real.sum().clamp(min=1)
        return slow, per_book[1:].mean(), accuracy.detach(), per_book

    def _corrupt(self, rows: Tensor) -> Tensor:
        """Put random codes in place of some; the loss still asks for the right ones."""
        s, share = self.sizes, self.training.corrupted
        token = rows[..., 0]
        is_frame = (token >= s.semantic_begin) & (token < s.speaker)
        noise = torch.randint_like(rows[..., 1:], s.codebook_size)
        frame_hit = is_frame & (torch.rand_like(token, dtype=torch.float32) < 2 * share)
        code_hit = torch.rand_like(noise, dtype=torch.float32) < 0.5
        codes = torch.where(frame_hit[..., None] & code_hit, noise, rows[..., 1:])
        semantic_hit = is_frame & (torch.rand_like(token, dtype=torch.float32) < share)
        first = torch.where(semantic_hit, noise[..., 0], rows[..., 1])
        token = torch.where(is_frame, first + s.semantic_begin, token)
        return torch.cat([token[..., None], first[..., None], codes[..., 1:]], -1)

    @torch.no_grad()
    def validate(self, held: Batch) -> dict[str, float]:
        """Losses of the averaged weights on held-out utterances."""
        sums = torch.zeros(3 + self.sizes.num_codebooks, device=self.device)
        parts = 0
        for rows, judged in zip(held.rows.split(32), held.is_judged.split(32), strict=True):
            slow, fast, accuracy, books = self.losses(self.averaged, rows, rows, judged, 4096)
            sums += torch.cat([torch.stack([slow, fast, accuracy]), books])
            parts += 1
        slow, fast, accuracy, *books = (sums / parts).tolist()
        figures = {"slow": slow, "fast": fast, "accuracy": accuracy}
        return figures | {f"book_{k}": books[k] for k in (1, 2, len(books) - 1)}


def train(
    trainer: LMTrainer, store: RowStore, curves: Curves, run_minutes: float, start_share: float
) -> dict[str, Tensor]:
    """Train and return the averaged state that was best on held-out utterances.

    Args:
        trainer: network and optimizer.
        store: the rows.
        curves: where figures go.
        run_minutes: of this run.
        start_share: share of the schedule of ``trainer.training.minutes`` done before.
    """
    training, device = trainer.training, trainer.device
    schedule_s, began = training.minutes * 60, time.perf_counter()
    held = store.held_rows(192, training.row_length)
    best, best_state = math.inf, copy.deepcopy(trainer.averaged.state_dict())
    totals, count, step, told, looked = torch.zeros(3, device=device), 0, 0, began, began
    while True:
        now = time.perf_counter()
        is_over = now - began > run_minutes * 60
        share = start_share + (now - began) / schedule_s
        if is_over or now - looked > 30:
            figures = trainer.validate(held)
            score = figures["slow"] + figures["fast"]
            if score < best:
                best = score
                best_state = copy.deepcopy(trainer.averaged.state_dict())
            curves.add("held_out", step, share * schedule_s, figures)
            looked = time.perf_counter()
        if is_over:
            return best_state
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        ramp = min(1.0, (step + 1) / training.warm_up)
        trainer.set_rate(training.peak_lr * ramp * (0.03 + 0.97 * cosine))
        batch = store.batch(training.rows, training.row_length, training.default_share)
        totals += trainer.step(batch)
        step, count = step + 1, count + 1
        if step % 20 == 0 and device.type == "cuda":
            torch.cuda.synchronize()
        if now - told > 10:
            slow, fast, accuracy = (totals / count).tolist()
            if not math.isfinite(slow + fast):
                raise RuntimeError(f"the loss is not finite at step {step}")
            rate = count * training.rows * training.row_length / (now - told)
            figures = {"slow": slow, "fast": fast, "accuracy": accuracy, "columns_per_s": rate}
            curves.add("train", step, share * schedule_s, figures)
            totals, count, told = torch.zeros_like(totals), 0, now


def main() -> None:
    """Command line of the dual-AR's training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=Path, required=True, help="folder of encode_shards")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True, help="of this run")
    parser.add_argument("--schedule-minutes", type=float, help="of all runs together")
    parser.add_argument("--done-minutes", type=float, default=0.0, help="of runs before")
    parser.add_argument("--start", type=Path, help="lm.safetensors to start from")
    parser.add_argument("--peak-lr", type=float, default=LMTraining.peak_lr)
    parser.add_argument("--rows", type=int, default=LMTraining.rows)
    parser.add_argument("--row-length", type=int, default=LMTraining.row_length)
    parser.add_argument("--dropout", type=float, default=LMSizes.dropout)
    parser.add_argument("--plain", action="store_true", help="no graph, nothing compiled")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    began = time.perf_counter()
    schedule = args.schedule_minutes or args.minutes
    training = LMTraining(
        schedule, rows=args.rows, row_length=args.row_length, peak_lr=args.peak_lr,
        has_graph=not args.plain,
    )  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    sizes = LMSizes(dropout=args.dropout)
    net = load_lm(args.start, args.dropout) if args.start else DualAR(sizes)
    trainer = LMTrainer(net, training, device)
    if device.type == "cuda" and not (args.plain or args.no_compile):
        trainer.compile_blocks()
    store = RowStore(args.columns, device, held_out=400, seed=args.seed)
    print(f"{store.num_columns} columns, {len(store.index)} utterances", flush=True)
    left_minutes = args.minutes - (time.perf_counter() - began) / 60
    curves = Curves(args.out / "curves_lm.jsonl")
    best = train(trainer, store, curves, left_minutes, args.done_minutes / schedule)
    trainer.averaged.load_state_dict(best)
    save_lm(trainer.averaged, args.out / "lm.safetensors")


if __name__ == "__main__":
    main()
