"""Weight files: read them without copying, fit them to a module strictly, write our own form.

Two containers are understood: torch's zip pickles (``weights_only``, memory-mapped) and
safetensors. Reading gives views of the mapped file, so a tensor costs nothing until it is used.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from backend.core.errors import CheckpointError, CheckpointMismatchError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

FORMAT_KEY = "format"
FORMAT = "fish-speech-server/1"
QUANTIZATION_KEY = "quantization"
NO_QUANTIZATION = "none"

_FORMAT_FAMILY = FORMAT.partition("/")[0] + "/"
_MAX_NAMES_LISTED = 12


@dataclass(frozen=True, slots=True)
class TensorFile:
    """What a weight file holds.

    Attributes:
        tensors: By name, views of the mapped file; copy before writing to one.
        metadata: A safetensors header's texts, or whatever a training checkpoint keeps beside its
            ``state_dict``.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any]


def read_tensor_file(path: Path, schemes: Collection[str] = ()) -> TensorFile:
    """Open ``*.safetensors`` or a torch zip pickle.

    A ``state_dict`` wrapper (training checkpoints) is taken off.

    Args:
        path: The file.
        schemes: Quantization schemes that the caller can read, beside plain weights.

    Raises:
        CheckpointError: The file is missing, damaged, could run code when read, holds something
            else than tensors, or is of a newer form than this version reads.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path, schemes)
    return _read_pickle(path)


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """Tensors of a weight file by name; see ``read_tensor_file``."""
    return read_tensor_file(path).tensors


def read_metadata(path: Path) -> Mapping[str, Any]:
    """Metadata of a weight file, empty if it has none; see ``read_tensor_file``."""
    return read_tensor_file(path).metadata


def write_safetensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]
) -> None:
    """Write our own form: safetensors whose metadata names the format.

    The file appears under its name only when it is complete.

    Args:
        tensors: By name, any device.
        path: Where to write; an existing file is replaced.
        metadata: Further texts for the header.
    """
    header = {QUANTIZATION_KEY: NO_QUANTIZATION, **metadata, FORMAT_KEY: FORMAT}
    partial = path.with_name(path.name + ".partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode  # what the user's umask allows; save_file makes it 0600
        save_file({name: value.contiguous() for name, value in tensors.items()}, partial, header)
        partial.chmod(mode)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def assign_strict(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype,
    device: torch.device | str,
    what: str,
    kept: Collection[str] = (),
    placed: Collection[str] = (),
) -> None:
    """Give ``module`` exactly the weights in ``tensors``.

    Nothing may be missing, extra or misshaped. Tensors are converted one by one, so the peak is
    the finished weights plus one tensor. The module may have been built on the meta device; its
    non-persistent buffers are the caller's to fill.

    Args:
        module: Receives the weights; its old ones are dropped.
        tensors: By the module's own names.
        dtype: For floating-point tensors; others keep theirs.
        device: Where the weights go.
        what: Names the checkpoint in messages.
        kept: Names of tensors that are taken as they are, in their own dtype, and without a copy
            where they are on ``device`` already.
        placed: Names of tensors that lie where and as they shall, in the right type.

    Raises:
        CheckpointMismatchError: Names or shapes differ, or the dtype of one in ``kept``; the
            message lists them.
        CheckpointError: A weight is not finite in ``dtype``.
    """
    check_fit(module, tensors, what)
    _check_kept(module, tensors, kept, what)
    ready: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name in placed:
            ready[name] = value
        elif name in kept:
            ready[name] = value.to(device)
        else:
            target = dtype if value.is_floating_point() else value.dtype
            # copy=True: own memory even where nothing changes, so that the file may be replaced.
            ready[name] = value.to(device=device, dtype=target, copy=True)
        # A sum is not finite if any of its terms is not, and costs a tenth of looking at each.
        if not math.isfinite(ready[name].sum(dtype=torch.float32).item()):
            raise CheckpointError(
                f"{what}: {name} is not finite in {dtype}; the file is damaged, or its numbers "
                "are too large for this precision (try MIXED_PRECISION=bf16 or fp32)"
            )
    module.load_state_dict(ready, strict=True, assign=True)
    module.requires_grad_(requires_grad=False)


def check_fit(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Compare names and shapes, reading no values; see ``assign_strict``."""
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in tensors.items()}
    problems = [
        *_listed("missing", (f"{name} {wanted[name]}" for name in wanted if name not in given)),
        *_listed("unknown", (f"{name} {given[name]}" for name in given if name not in wanted)),
        *_listed(
            "misshaped",
            (
                f"{name} is {given[name]}, must be {shape}"
                for name, shape in wanted.items()
                if name in given and given[name] != shape
            ),
        ),
    ]
    if problems:
        raise CheckpointMismatchError(
            f"{what}: the weights do not fit the configuration beside them. "
            + "; ".join(problems)
            + ". Files of different models are mixed up, or the model is of another kind"
        )


def _check_kept(
    module: nn.Module, tensors: Mapping[str, Tensor], kept: Collection[str], what: str
) -> None:
    wanted = {name: value.dtype for name, value in module.state_dict().items() if name in kept}
    for name, dtype in wanted.items():
        if tensors[name].dtype != dtype:
            raise CheckpointMismatchError(
                f"{what}: {name} is {tensors[name].dtype}, must be {dtype}; convert the checkpoint "
                "again with scripts/convert_checkpoint.py"
            )


def _listed(kind: str, entries: Iterable[str]) -> list[str]:
    names = list(entries)
    if not names:
        return []
    more = f", and {len(names) - _MAX_NAMES_LISTED} more" if len(names) > _MAX_NAMES_LISTED else ""
    return [f"{len(names)} {kind}: {', '.join(names[:_MAX_NAMES_LISTED])}{more}"]


def _read_safetensors(path: Path, schemes: Collection[str]) -> TensorFile:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error}); download it again"
        ) from error
    _check_form(path, metadata, schemes)
    return TensorFile(tensors, metadata)


def _check_form(path: Path, metadata: Mapping[str, str], schemes: Collection[str]) -> None:
    form = metadata.get(FORMAT_KEY, "")
    if form.startswith(_FORMAT_FAMILY) and form != FORMAT:
        raise CheckpointError(f"{path}: has the form {form}; this version reads {FORMAT}")
    scheme = metadata.get(QUANTIZATION_KEY, NO_QUANTIZATION)
    if scheme != NO_QUANTIZATION and scheme not in schemes:
        readable = " or ".join(["plain weights", *schemes])
        raise CheckpointError(
            f"{path}: was saved with quantization {scheme!r}; only {readable} can be read here"
        )


def _read_pickle(path: Path) -> TensorFile:
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path}: not a torch checkpoint (or an incomplete download); download it again. "
            "A file saved before torch 1.6 must be saved anew with torch.save"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors, and reading it could run code. Save its "
            f"state_dict alone and use that file ({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(
            f"{path}: damaged ({str(error).splitlines()[0]}); download it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds {type(content).__name__}, not a state_dict")
    tensors, metadata = content, {}
    if isinstance(content.get("state_dict"), dict):
        metadata = {key: value for key, value in content.items() if key != "state_dict"}
        tensors = content["state_dict"]
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {name} is {type(value).__name__}, not a tensor")
    return TensorFile(tensors, metadata)
