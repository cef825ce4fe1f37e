"""CUDA C++ kernels without a compiler on the machine: NVRTC comes with PyTorch.

It and the driver are called through ``ctypes``. Compiled kernels are kept on disk, so only the
first start on a machine compiles.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import logging
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

_log = logging.getLogger(__name__)

_MAX_DYNAMIC_SHARED = 8
"""CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES."""
_COOPERATIVE, _PROGRAMMATIC = 2, 6
"""Launch attributes: all blocks at once; may start before the kernel in front has ended."""


class KernelError(RuntimeError):
    """A kernel could not be compiled, loaded or launched."""


class NoHomeError(Exception):
    """The user has no home folder."""


class _Attribute(ctypes.Structure):
    _fields_ = (
        ("id", ctypes.c_int),
        ("padding", ctypes.c_int),
        ("value", ctypes.c_int * 16),
    )


class _LaunchConfig(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("num_attributes", ctypes.c_uint),
    )


class Kernel:
    """One compiled function, loaded in the current context.

    Args:
        image: Machine code of ``compiled``.
        name: Of the function, ``extern "C"``.
        shared_bytes: Dynamic shared memory of a block.
    """

    def __init__(self, image: bytes, name: str, shared_bytes: int) -> None:
        driver = _driver()
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        _check(driver.cuModuleLoadData(ctypes.byref(module), image), "loading")
        _check(driver.cuModuleGetFunction(ctypes.byref(function), module, name.encode()), "finding")
        _check(
            driver.cuFuncSetAttribute(function, _MAX_DYNAMIC_SHARED, shared_bytes),
            f"asking for {shared_bytes} bytes of shared memory for",
        )
        self._function, self._shared_bytes = function, shared_bytes

    def launch(
        self, num_blocks: int, num_threads: int, args: ctypes.Structure, *, starts_early: bool,
        is_cooperative: bool = True,
    ) -> None:  # fmt: skip
        """Run on PyTorch's current stream.

        Args:
            num_blocks: Of the grid.
            num_threads: Of a block.
            args: The function's only parameter, copied at the launch.
            starts_early: Whether it may start while the kernel in front still runs.
            is_cooperative: Whether all blocks must run at once.

        Raises:
            KernelError: The driver refuses.
        """
        attributes = (_Attribute * 2)()
        wanted = [_COOPERATIVE] * is_cooperative + [_PROGRAMMATIC] * starts_early
        for attribute, kind in zip(attributes, wanted, strict=False):
            attribute.id, attribute.value[0] = kind, 1
        config = _LaunchConfig(
            (ctypes.c_uint * 3)(num_blocks, 1, 1),
            (ctypes.c_uint * 3)(num_threads, 1, 1),
            self._shared_bytes,
            torch.cuda.current_stream().cuda_stream,
            attributes,
            len(wanted),
        )
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(args))
        status = _driver().cuLaunchKernelEx(
            ctypes.byref(config), self._function, parameters, ctypes.c_void_p()
        )
        _check(status, "launching")


def compiled(source: str, defines: Mapping[str, int], device: torch.device) -> bytes:
    """Compile CUDA C++ for the card, or take what an earlier start has left.

    Args:
        source: Of one file, without includes.
        defines: Macros.
        device: The card.

    Returns:
        Machine code for ``Kernel``.

    Raises:
        KernelError: NVRTC is not there, or refuses the source.
    """
    major, minor = torch.cuda.get_device_capability(device)
    options = [f"--gpu-architecture=sm_{major}{minor}", "--std=c++17"]
    options += [f"-D{name}={value}" for name, value in sorted(defines.items())]
    told = "\n".join([str(torch.version.cuda), *options, source])
    image = b""
    try:
        kept = _cache_folder() / f"{hashlib.sha256(told.encode()).hexdigest()}.cubin"
        if kept.is_file():
            return kept.read_bytes()
        image = _compile(source, options)
        kept.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(kept, image)
    except (OSError, NoHomeError) as error:
        _log.info("compiled kernels are not kept: %s", error)
        image = image or _compile(source, options)
    return image


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all; starts at the same time do no harm."""
    file = tempfile.NamedTemporaryFile(dir=path.parent, delete=False)  # noqa: SIM115 - see below
    written = Path(file.name)
    try:
        with file:
            file.write(content)
        written.replace(path)
    except OSError:
        written.unlink(missing_ok=True)
        raise


def _cache_folder() -> Path:
    try:
        home = Path.home()
    except RuntimeError as error:
        raise NoHomeError(str(error)) from None
    return home / ".cache" / "fish-speech-server" / "kernels"


def _compile(source: str, options: list[str]) -> bytes:
    nvrtc = _nvrtc()
    program = ctypes.c_void_p()
    status = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None
    )
    if status:
        raise KernelError(f"NVRTC error {status}")
    try:
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if nvrtc.nvrtcCompileProgram(program, len(options), given):
            log = _read(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
            raise KernelError(f"NVRTC: {log.decode(errors='replace').strip()}")
        return _read(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _read(size_of: Any, read: Any, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    read(program, buffer)
    return buffer.raw


def _check(status: int, doing: str) -> None:
    if status:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(status, ctypes.byref(text))
        reason = (text.value or b"unknown").decode()
        raise KernelError(f"{doing} a kernel failed: {reason} ({status})")


@cache
def _driver() -> ctypes.CDLL:
    return _library(["nvcuda.dll"] if sys.platform == "win32" else ["libcuda.so.1"])


@cache
def _nvrtc() -> ctypes.CDLL:
    cuda = (torch.version.cuda or "0").split(".")[0]
    if sys.platform == "win32":
        folder = Path(torch.__file__).parent / "lib"
        return _library([str(path) for path in folder.glob(f"nvrtc64_{cuda}*_0.dll")])
    name = f"libnvrtc.so.{cuda}"
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(root) for root in spec.submodule_search_locations or ()] if spec else []
    return _library([name, *(str(path) for root in roots for path in root.glob(f"*/lib/{name}"))])


def _library(names: list[str]) -> ctypes.CDLL:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise KernelError(f"none of these libraries is there: {', '.join(names) or 'NVRTC'}")
