"""Measure the codec on this machine: speed, rounding, and that every fast path tells the truth.

    python scripts/measure_codec.py                              the pocket voice, on the CPU
    python scripts/measure_codec.py --device cuda --random-s1    S1-mini's sizes, random weights

Needs torch alone (Triton for the fused snake, safetensors for the pocket voice). The last line of
the output is one JSON object: milliseconds are medians, SNR is in dB against float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from backend.core.contract import FrameChunk  # noqa: E402
from backend.engine.capture import GraphRoom  # noqa: E402
from backend.engine.codec_graphs import CudaCapture  # noqa: E402
from backend.engine.codec_precision import find_snake_kernel  # noqa: E402
from backend.engine.decode_frames import BATCH_BUCKETS, StreamDecoder  # noqa: E402
from backend.models.codec import layers  # noqa: E402
from backend.models.codec.codec import Codec, CodecParts  # noqa: E402
from backend.models.codec.config import S1_MINI  # noqa: E402
from backend.models.codec.fused.decoder import FusedDecoder  # noqa: E402
from backend.models.codec.fused.network import why_not_fused  # noqa: E402
from backend.models.codec.rounding import round_weights  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
RAMP = (1, 2, 4, 8, 16, 32)


def main() -> int:
    """Measure what was asked for."""
    args = parse_arguments()
    device = torch.device(args.device)
    torch.manual_seed(0)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.product_limit is not None:
        layers.FEW_WINDOWS[device.type] = args.product_limit
    torch.backends.cudnn.allow_tf32 = True
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "codec": "random S1-mini" if args.random_s1 else "pocket",
        "product_limit": layers.FEW_WINDOWS[device.type],
    }
    result["snr_db"] = measure_rounding(args, device)
    if not args.only_rounding:
        result["equality"] = measure_equality(args, device)
        result["streaming_ms"] = measure_streaming(args, device)
        result.update(measure_whole(args, device))
    print(json.dumps(result))
    return 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--random-s1", action="store_true", help="S1-mini's sizes, random weights")
    parser.add_argument("--precision", choices=DTYPES, help="default: fp16 on a card, else fp32")
    parser.add_argument("--seconds", type=float, default=10.0, help="of sound for whole runs")
    parser.add_argument("--rounding-frames", type=int, default=20, help="frames for the SNR")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--batches", default="1,8,64", help="streams for the streaming step")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads")
    parser.add_argument("--product-limit", type=int, help="see FEW_WINDOWS in layers.py")
    parser.add_argument("--no-graphs", action="store_true")
    parser.add_argument("--no-fused", action="store_true", help="the snake as plain PyTorch")
    parser.add_argument("--only-rounding", action="store_true")
    args = parser.parse_args()
    args.precision = args.precision or ("fp16" if args.device.startswith("cuda") else "fp32")
    return args


def make_codec(args: argparse.Namespace, parts: CodecParts, dtype: torch.dtype) -> Codec:
    """Give a codec as the engine would load it; random weights are the same for every dtype."""
    device = torch.device(args.device)
    if args.random_s1:
        torch.manual_seed(7)
        codec = round_weights(Codec(S1_MINI, parts).eval().requires_grad_(False), dtype).to(device)
    else:
        from backend.models.codec.weights import load_codec

        codec = load_codec(ROOT / "backend" / "pocket", device, dtype, parts)
    kernel, notes = (None, ()) if args.no_fused else find_snake_kernel(device)
    for note in notes:
        print(note)
    codec.use_snake_kernel(kernel)
    return codec


def make_codes(codec: Codec, num_streams: int, num_frames: int) -> list[NDArray[np.int32]]:
    """Give random codes, a ``[K, F]`` per stream."""
    generator = np.random.default_rng(3)
    sizes = np.array(codec.codebook_sizes)[:, None]
    shape = (codec.num_codebooks, num_frames)
    return [generator.integers(0, sizes, shape).astype(np.int32) for _ in range(num_streams)]


def make_decoder(
    args: argparse.Namespace, codec: Codec, num_slots: int, *, graphs: bool
) -> StreamDecoder:
    """Give streams over a codec, with graphs where there can be some."""
    graphs = graphs and codec.device.type == "cuda"
    capture = CudaCapture(GraphRoom(codec.device)) if graphs and not args.no_graphs else None
    decoder = StreamDecoder(codec, num_slots, 32, capture=capture, fused=make_fused(args, codec))
    decoder.warm_up()
    while decoder.prepare_one():
        pass
    return decoder


def make_fused(args: argparse.Namespace, codec: Codec) -> FusedDecoder | None:
    """Give the fused decoder where there can be one; the codec keeps its weights."""
    if args.no_fused or codec.device.type != "cuda" or codec.dtype == torch.float32:
        return None
    if why_not_fused(codec) is not None:
        return None
    from backend.models.codec.fused.triton_ops import TritonOps

    return FusedDecoder(codec, TritonOps())


def measure_rounding(args: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Compare the samples of each half precision with those of float32."""
    exact = make_codec(args, "decode", torch.float32)
    [numbers] = make_codes(exact, 1, args.rounding_frames)
    codes = torch.from_numpy(numbers).long()[None].to(device)
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    expected = exact.decode_frames(codes).double()
    torch.backends.cudnn.allow_tf32 = tf32
    del exact
    ratios: dict[str, float] = {}
    for name in ("fp16", "bf16"):
        error = make_codec(args, "decode", DTYPES[name]).decode_frames(codes).double() - expected
        ratios[name] = round(20 * torch.log10(expected.norm() / error.norm()).item(), 1)
    return ratios


def measure_equality(args: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Give the largest difference of each fast path to the plain one; samples are in -1..1."""
    codec = make_codec(args, "decode", DTYPES[args.precision])
    streams = make_codes(codec, 5, 23)
    plain = [codec.decode_frames(torch.from_numpy(c).long()[None].to(device))[0] for c in streams]
    expected = [samples.cpu().numpy() for samples in plain]
    result: dict[str, float] = {"peak": float(max(np.abs(e).max() for e in expected))}
    for name, graphs in (("eager_batch", False), ("graphs_batch", True)):
        decoder = make_decoder(args, codec, 5, graphs=graphs)
        heard: list[list[NDArray[np.float32]]] = [[] for _ in streams]
        for start, stop in ((0, 1), (1, 3), (3, 7), (7, 23)):
            chunks = [FrameChunk(slot, codes[:, start:stop]) for slot, codes in enumerate(streams)]
            for parts, samples in zip(heard, decoder.decode(chunks), strict=True):
                parts.append(samples)
        pairs = zip(heard, expected, strict=True)
        result[name] = float(max(np.abs(np.concatenate(h) - e).max() for h, e in pairs))
    if codec.device.type == "cuda" and not args.no_fused:
        codec.use_snake_kernel(None)
        codes = torch.from_numpy(streams[0]).long()[None].to(device)
        difference = codec.decode_frames(codes)[0].cpu().numpy() - expected[0]
        result["fused_snake"] = float(np.abs(difference).max())
    return result


def measure_streaming(args: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Time a call of the streaming decoder, host to host, by streams and frames."""
    codec = make_codec(args, "decode", DTYPES[args.precision])
    result: dict[str, float] = {}
    for batch in [int(text) for text in args.batches.split(",")]:
        decoder = make_decoder(args, codec, max(batch, BATCH_BUCKETS[0]), graphs=True)
        for frames in RAMP:
            chunks = [FrameChunk(i, c) for i, c in enumerate(make_codes(codec, batch, frames))]
            result[f"batch {batch} frames {frames}"] = median_ms(
                lambda d=decoder, c=chunks: d.decode(c), args.repeats, device
            )
            if device.type == "cpu" and batch * frames >= 64:
                break  # minutes, and nothing new
        print(f"streaming, {batch} streams: done")
    return result


def measure_whole(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Time whole utterances: decoding as the engine does, and encoding."""
    codec = make_codec(args, "decode", DTYPES[args.precision])
    frames = round(args.seconds * codec.config.frame_rate)
    [codes] = make_codes(codec, 1, frames)
    decoder = make_decoder(args, codec, 1, graphs=True)
    on_device = torch.from_numpy(codes).long()[None].to(device)
    result: dict[str, Any] = {
        "seconds": args.seconds,
        "decode_chunked_ms": median_ms(
            lambda: decoder.decode([FrameChunk(0, codes)]), args.repeats, device
        ),
        "decode_at_once_ms": median_ms(
            lambda: codec.decode_frames(on_device), args.repeats, device
        ),
    }
    encoder = make_codec(args, "encode", torch.float32)
    samples = torch.randn(1, round(args.seconds * encoder.sample_rate)).mul_(0.1).to(device)
    chunk_frames = 256 if device.type == "cuda" else 64
    encode = lambda: encoder.encode_reference(samples, chunk_frames=chunk_frames).cpu()  # noqa: E731
    result["encode_ms"] = median_ms(encode, args.repeats, device)
    if device.type == "cuda":
        result["peak_mib"] = torch.cuda.max_memory_allocated(device) // 2**20
        torch.backends.cudnn.allow_tf32 = False
        exact = encoder.encode_reference(samples, chunk_frames=chunk_frames).cpu()
        torch.backends.cudnn.allow_tf32 = True
        result["codes_equal_without_tf32"] = (exact == encode()).float().mean().item()
    return result


def median_ms(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Give the median time of a call after two runs that do not count."""
    times = []
    for run in range(repeats + 2):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if run >= 2:
            times.append((time.perf_counter() - start) * 1e3)
    return round(statistics.median(times), 3)


if __name__ == "__main__":
    sys.exit(main())
