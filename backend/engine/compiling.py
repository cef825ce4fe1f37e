"""torch.compile for what runs in plain PyTorch: layer by layer, with kernels that are kept.

Regional: what is compiled are functions of one layer and its tensors, without state, so that one
compilation serves all layers of a kind. CUDA graphs are not torch.compile's here but the engine's
own, which hold the whole step.
"""

from __future__ import annotations

import importlib
import logging
import os
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import torch
from torch import nn

from backend.engine.step_ops import finish, module_ops, project
from backend.models.codec.transformer import plain_finish

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from backend.core.settings import Settings
    from backend.engine.step_ops import Heads, NetworkOps, ProjectBlock
    from backend.models.codec.codec import Codec
    from backend.models.dual_ar import DualAR

    CompiledOps: TypeAlias = tuple[NetworkOps, tuple[str, ...]]
    """What to compute with, and what to tell people."""

Plain = TypeVar("Plain")

DECODE_LAYERS = "the decode step's layers"
CODEC_LAYERS = "the codec's layers"
CACHE_FOLDER = "compiled"
"""In ``DATA_DIR``."""
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
AUTOTUNED = "max-autotune-no-cudagraphs"
"""For the transformer on a card: every product's kernel is the fastest of several that are tried.
On a CPU the library's products are always taken, so there is nothing to try."""
PLAIN_MODE = "default"
"""For the codec: ``reduce-overhead`` without its CUDA graphs, which the engine has of its own."""
_TRIED_ROWS = (1, 16)
"""Batches of the first call: torch.compile makes one program for 1 and one for all others, whose
kernels are chosen for this size."""
_TRIED_STREAMS = ((1, 1), (1, 2), (2, 2))
"""Streams and frames of the codec's first calls, likewise."""
_MOST_PROGRAMS = 64
"""Programs of one function: kinds of layers, batches of one and of more, number formats."""

_log = logging.getLogger(__name__)


class LayerPrograms:
    """Compiles functions of a layer; those that cannot be compiled run plainly.

    Args:
        mode: Of ``torch.compile``.

    Attributes:
        failure: Why plain functions run, or None while none had to.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self._made: dict[object, object] = {}
        self.failure: str | None = None

    def __call__(self, plain: Plain, /) -> Plain:
        """Give a function that computes what ``plain`` does; see ``LayerCompiler``."""
        if plain not in self._made:
            self._made[plain] = self._wrapped(cast("Callable[..., Any]", plain))
        return cast("Plain", self._made[plain])

    def _wrapped(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        program: Callable[..., Any] | None = None

        def run(*args: Any) -> Any:
            nonlocal program
            if self.failure is not None:
                return plain(*args)
            try:
                if program is None:
                    program = torch.compile(plain, dynamic=True, mode=self.mode)
                # the sizes of a parameter would be constants: a program for each
                return program(*(a.detach() if isinstance(a, nn.Parameter) else a for a in args))
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # noqa: BLE001 - compilers' failures have no common type
                self.failure = _first_line(error)
                _log.warning("torch.compile failed, plain PyTorch goes on: %s", error)
                return plain(*args)

        return run


def prepare_cache(settings: Settings) -> str:
    """Have torch.compile keep what it makes, in ``DATA_DIR``.

    Returns:
        Where that is, for people.
    """
    folder = settings.data_dir.resolve() / CACHE_FOLDER
    place = f"kept in {folder}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        place = f"not kept, since {folder} cannot be made ({error})"
    else:
        # the one way to say it; PyTorch reads it whenever it looks for a program
        os.environ[CACHE_VARIABLE] = str(folder)  # noqa: TID251
    limits = importlib.import_module("torch._dynamo.config")
    limits.recompile_limit = max(_MOST_PROGRAMS, limits.recompile_limit)  # pyright: ignore[reportAttributeAccessIssue]
    return place


@torch.inference_mode()
def compiled_ops(model: DualAR, settings: Settings) -> CompiledOps:
    """Compile the layers of ``model`` for decode steps in plain PyTorch."""
    if settings.quantization == "nf4":
        reason = "weights in NF4 go through a library's kernel"
        return module_ops(model), (_why_not(DECODE_LAYERS, reason),)
    place = prepare_cache(settings)
    programs = LayerPrograms(PLAIN_MODE if model.rope.device.type == "cpu" else AUTOTUNED)
    ops = module_ops(model, _project_rows(programs(project)), _by_rows(programs(finish)))
    for num_rows in _TRIED_ROWS:
        _try_out(model, ops, num_rows)
    if programs.failure is not None:
        return module_ops(model), (_why_not(DECODE_LAYERS, programs.failure),)
    return ops, (f"torch.compile: {DECODE_LAYERS} ({programs.mode}), {place}",)


def _try_out(model: DualAR, ops: NetworkOps, num_rows: int) -> None:
    """Run one layer of each kind with so many rows."""
    config, weight = model.config, model.embeddings.weight
    for block, rope, width in (
        (ops.slow[0], ops.rope, config.dim),
        (ops.fast[0], ops.fast_rope, config.fast_dim),
    ):
        x = weight.new_zeros(num_rows, width)
        q, _, _ = block.project(x, rope[:1].expand(num_rows, -1, -1))
        block.finish(x, q.flatten(-2))


@torch.inference_mode()
def compile_codec(codec: Codec, settings: Settings) -> tuple[str, ...]:
    """Compile the layers of a codec that decodes by its modules.

    Returns:
        What to tell people.
    """
    place = prepare_cache(settings)
    programs = LayerPrograms(PLAIN_MODE)
    codec.compile_layers(programs, _by_rows(programs(plain_finish)))
    for num_streams, num_frames in _TRIED_STREAMS:
        shape = (num_streams, codec.num_codebooks, num_frames)
        codes = torch.zeros(shape, dtype=torch.int64, device=codec.device)
        codec.decode_stream(codes, codec.new_decode_state(num_streams))
    if programs.failure is not None:
        return (_why_not(CODEC_LAYERS, programs.failure),)
    return (f"torch.compile: {CODEC_LAYERS} ({programs.mode}), {place}",)


def _by_rows(program: Callable[[Any, Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Positions are rows like others: one program for ``[N, dim]`` instead of one per shape."""

    def run(block: Any, x: Tensor, mixed: Tensor) -> Tensor:
        return program(block, _rows(x), _rows(mixed)).view(x.shape)

    return run


def _project_rows(program: ProjectBlock) -> ProjectBlock:
    """The same for the other half, where every row has its own angles."""

    def run(block: Any, x: Tensor, angles: Tensor) -> Heads:
        leading = x.shape[:-1]
        each = angles.expand(*leading, *angles.shape[-2:])
        # a copy always: a view of the table counts as another kind of tensor
        each = each.clone(memory_format=torch.contiguous_format).flatten(0, -3)
        q, k, v = program(block, _rows(x), each)
        return q.unflatten(0, leading), k.unflatten(0, leading), v.unflatten(0, leading)

    return run


def _rows(x: Tensor) -> Tensor:
    """``[..., dim]`` as ``[N, dim]``, nothing between: strides count in a program as well."""
    return x.reshape(-1).view(-1, x.shape[-1])


def not_compiled(what: str) -> str:
    """Tell that ``what`` runs in something faster than what torch.compile makes."""
    return _why_not(what, "the project's own kernels run them")


def _why_not(what: str, reason: str) -> str:
    return f"ENABLE_TORCH_COMPILE: {what} run uncompiled, since {reason}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
