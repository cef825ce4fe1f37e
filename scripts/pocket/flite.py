"""Speech from the flite synthesizer, in this process.

flite 2.2 and its voices ``rms``, ``slt``, ``awb`` and ``kal16`` come under a BSD-like licence,
voice data included (Carnegie Mellon University). They are Debian's package
``libflite1``; a folder with its unpacked ``.so`` files serves as well, so nothing need be
installed.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

VOICES = ("rms", "slt", "awb", "kal16")
SOURCE_RATE_HZ = 16000
# ``pau`` (silence) must stay first: label 0 also stands for padding.
PHONES = [
    "pau",
    "aa",
    "ae",
    "ah",
    "ao",
    "aw",
    "ax",
    "ay",
    "b",
    "ch",
    "d",
    "dh",
    "eh",
    "er",
    "ey",
    "f",
    "g",
    "hh",
    "ih",
    "iy",
    "jh",
    "k",
    "l",
    "m",
    "n",
    "ng",
    "ow",
    "oy",
    "p",
    "r",
    "s",
    "sh",
    "t",
    "th",
    "uh",
    "uw",
    "v",
    "w",
    "y",
    "z",
    "zh",
]
PHONE_IDS = {phone: index for index, phone in enumerate(PHONES)}
_FOLDED: dict[str, str] = {"ax-h": "ax", "axr": "ax"}


class FliteMissingError(RuntimeError):
    """The flite libraries cannot be loaded; the message tells how to get them."""


@dataclass(frozen=True)
class Speech:
    """What flite said.

    Attributes:
        samples: ``[S]`` int16 at 16 kHz.
        phone_ids: ``[P]`` uint8 indices into ``PHONES``.
        phone_ends_s: ``[P]`` float64, the end of each phone in seconds.
    """

    samples: NDArray[np.int16]
    phone_ids: NDArray[np.uint8]
    phone_ends_s: NDArray[np.float64]


class _Wave(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    ]


class _Voice(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("features", ctypes.c_void_p)]


class Flite:
    """The synthesizer; the library keeps global state, so make one instance per process.

    Args:
        library_dir: folder of the unpacked libraries, or None to take the system's.

    Raises:
        FliteMissingError: a library is missing.
    """

    def __init__(self, library_dir: Path | None = None) -> None:
        self._dir = library_dir
        self._lib = self._open("libflite.so.1")
        for name in ("libflite_usenglish.so.1", "libflite_cmulex.so.1"):
            self._open(name)
        self._declare()
        self._lib.flite_init()
        self._voices: dict[str, Any] = {}
        self._defaults: dict[str, tuple[float, float, float]] = {}
        for name in VOICES:
            register = getattr(
                self._open(f"libflite_cmu_us_{name}.so.1"), f"register_cmu_us_{name}"
            )
            register.restype, register.argtypes = ctypes.POINTER(_Voice), [ctypes.c_char_p]
            voice = register(None)
            self._voices[name] = voice
            number = self._lib.get_param_float
            features = voice.contents.features
            self._defaults[name] = (
                number(features, b"int_f0_target_mean", 95.0),
                number(features, b"int_f0_target_stddev", 11.0),
                number(features, b"duration_stretch", 1.0),
            )

    def _open(self, name: str) -> ctypes.CDLL:
        candidates = [str(self._dir / name), name] if self._dir else [name]
        if self._dir and (sound := self._dir / "libasound.so.2").exists():
            ctypes.CDLL(str(sound), mode=ctypes.RTLD_GLOBAL)
        for candidate in candidates:
            try:
                return ctypes.CDLL(candidate, mode=ctypes.RTLD_GLOBAL)
            except OSError:
                continue
        raise FliteMissingError(
            f"{name} not found in {self._dir or 'the system'}: install Debian's libflite1, or "
            "unpack it (dpkg -x) and name the folder of its libraries with --flite"
        )

    def _declare(self) -> None:
        pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_float
        for name, result, arguments in (
            ("flite_synth_text", pointer, [text, pointer]),
            ("utt_wave", ctypes.POINTER(_Wave), [pointer]),
            ("delete_utterance", None, [pointer]),
            ("utt_relation", pointer, [pointer, text]),
            ("relation_head", pointer, [pointer]),
            ("item_next", pointer, [pointer]),
            ("item_feat_string", text, [pointer, text]),
            ("item_feat_float", number, [pointer, text]),
            ("flite_feat_set_float", None, [pointer, text, number]),
            ("get_param_float", number, [pointer, text, number]),
        ):
            function = getattr(self._lib, name)
            function.restype, function.argtypes = result, arguments

    def say(
        self, text: str, voice: str, stretch: float = 1.0, pitch: float = 1.0, spread: float = 1.0
    ) -> Speech:
        """Synthesize a text.

        Args:
            text: plain English.
            voice: one of ``VOICES``.
            stretch: factor on all durations.
            pitch: factor on the mean pitch; ``rms`` has its own pitch model and ignores it.
            spread: factor on the pitch range; only ``kal16`` obeys.
        """
        lib, handle = self._lib, self._voices[voice]
        features = handle.contents.features
        mean, deviation, duration = self._defaults[voice]
        lib.flite_feat_set_float(features, b"duration_stretch", stretch * duration)
        if voice == "kal16":
            lib.flite_feat_set_float(features, b"int_f0_target_mean", mean * pitch)
            lib.flite_feat_set_float(features, b"int_f0_target_stddev", deviation * pitch * spread)
        else:
            lib.flite_feat_set_float(features, b"f0_shift", pitch)
        utterance = lib.flite_synth_text(text.encode("ascii", "ignore"), handle)
        try:
            wave = lib.utt_wave(utterance).contents
            samples = np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).copy()
            ids, ends = self._phones(utterance)
        finally:
            lib.delete_utterance(utterance)
        return Speech(samples, np.array(ids, np.uint8), np.array(ends, np.float64))

    def _phones(self, utterance: int) -> tuple[list[int], list[float]]:
        lib, ids, ends = self._lib, [], []
        relation = lib.utt_relation(utterance, b"Segment")
        item = lib.relation_head(relation) if relation else None
        while item:
            name: str = lib.item_feat_string(item, b"name").decode("latin1")
            ids.append(PHONE_IDS.get(_FOLDED.get(name) or name, 0))
            ends.append(float(lib.item_feat_float(item, b"end")))
            item = lib.item_next(item)
        return ids, ends
