"""Turn shards of speech into the dual-AR's training columns with a trained codec.

A column is one position of a prompt: a token and, where the token is semantic, the codes of its
frame. ``columns.npy`` int16 ``[N, 1 + K]`` holds all utterances end to end, each as speaker token,
text bytes, frames, end token; its first column opens a row. ``index.npy`` int64 ``[U, 4]`` tells
first column, columns, text bytes and speaker of each utterance.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from scripts.pocket.codec_files import load_codec
from scripts.pocket.lm_net import LMSizes
from scripts.pocket.render import RATE_HZ
from scripts.pocket.shards import complete_shards
from scripts.pocket.speech_store import read_items

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scripts.pocket.codec import Codec

_GROUP = 16  # shards that are sorted by length together


def utterance_columns(sizes: LMSizes, text: str, codes: NDArray[np.integer]) -> NDArray[np.int16]:
    """Columns ``[1 + bytes + F + 1, 1 + K]`` of a text and its codes ``[K, F]``."""
    spoken = np.frombuffer(text.encode("utf-8"), np.uint8)
    columns = np.zeros((len(spoken) + codes.shape[1] + 2, 1 + sizes.num_codebooks), np.int16)
    columns[0, 0] = sizes.speaker
    columns[1 : 1 + len(spoken), 0] = spoken
    columns[1 + len(spoken) : -1, 0] = codes[0] + sizes.semantic_begin
    columns[1 + len(spoken) : -1, 1:] = codes.T
    columns[-1, 0] = sizes.im_end
    return columns


@torch.inference_mode()
def encode_shards(codec: Codec, data: Path, out: Path, batch_s: float, max_minutes: float) -> float:
    """Encode all complete shards of ``data`` into ``out``; returns the hours encoded."""
    sizes, device = LMSizes(), next(codec.parameters()).device
    frame, began = codec.sizes.frame_length, time.perf_counter()
    opening = np.zeros((1, 1 + sizes.num_codebooks), np.int16)
    opening[0, 0] = sizes.interleave
    parts, index, position, encoded = [opening], [], 1, 0
    shards = complete_shards(data)
    for group in range(0, len(shards), _GROUP):
        if time.perf_counter() - began > max_minutes * 60:
            break
        rows = []
        for path in shards[group : group + _GROUP]:
            pcm = torch.from_numpy(np.fromfile(path.with_suffix(".pcm"), np.int16)).to(device)
            rows += [
                (pcm[start : start + count], speaker, text)
                for start, count, speaker, text in read_items(path)
            ]
        rows.sort(key=lambda row: -len(row[0]))
        while rows:
            longest = -(-len(rows[0][0]) // RATE_HZ) * RATE_HZ
            batch = rows[: max(1, int(batch_s * RATE_HZ / longest))]
            rows = rows[len(batch) :]
            samples = torch.zeros(len(batch), 1, longest, device=device)
            for i, (pcm, _, _) in enumerate(batch):
                samples[i, 0, : len(pcm)] = pcm.float() / 32768
            codes = codec.encode(samples).cpu().numpy()
            for i, (pcm, speaker, text) in enumerate(batch):
                columns = utterance_columns(sizes, text, codes[i, :, : -(-len(pcm) // frame)])
                index.append((position, len(columns), len(text.encode("utf-8")), speaker))
                parts.append(columns)
                position, encoded = position + len(columns), encoded + len(pcm)
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "columns.npy", np.concatenate(parts))
    np.save(out / "index.npy", np.array(index, np.int64))
    return encoded / RATE_HZ / 3600


def main() -> None:
    """Command line of the encoder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--codec", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch-s", type=float, default=480.0)
    parser.add_argument("--max-minutes", type=float, default=1e9)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    began = time.perf_counter()
    codec = load_codec(args.codec).to(device)
    hours = encode_shards(codec, args.data, args.out, args.batch_s, args.max_minutes)
    spent_s = time.perf_counter() - began
    print(f"encoded {hours:.1f} h in {spent_s:.0f} s: x{hours * 3600 / spent_s:.0f} real time")


if __name__ == "__main__":
    main()
