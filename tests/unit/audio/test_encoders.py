from __future__ import annotations

import gc
import io
import threading
from collections.abc import Callable

import av
import numpy as np
import pytest
import soundfile as sf
import soxr
from av.audio.codeccontext import AudioCodecContext
from av.container import OutputContainer

from backend.audio.decode import decode_audio
from backend.audio.encoders import AudioEncoder, encode_whole, make_encoder
from backend.audio.formats import AI_GENERATED_COMMENT, OUTPUT_FORMATS
from backend.audio.pcm import from_s16le_bytes
from backend.core.errors import GenerationError, UnsupportedFormatError
from tests.unit.audio.media import RATE_HZ, aligned, snr_db, tone

CONTAINERS = [name for name in OUTPUT_FORMATS if name != "pcm"]
COMPRESSED = ["mp3", "flac", "opus", "aac"]
LOSSY = ["mp3", "opus", "aac"]
CHUNK = 4_410  # 100 ms


def streamed(name: str, samples: np.ndarray, rate_hz: int = RATE_HZ, chunk: int = CHUNK) -> bytes:
    with make_encoder(name, rate_hz) as encoder:
        parts = [encoder.header()]
        parts += [encoder.feed(samples[at : at + chunk]) for at in range(0, samples.size, chunk)]
        parts.append(encoder.finish())
    return b"".join(parts)


def whole(name: str, samples: np.ndarray) -> bytes:
    return encode_whole(name, samples, RATE_HZ)


def decoded(data: bytes, rate_hz: int = RATE_HZ) -> np.ndarray:
    recording = decode_audio(
        data, target_sample_rate=rate_hz, max_duration_s=60, min_duration_s=0.01
    )
    return recording.samples


Make = Callable[[str, np.ndarray], bytes]


def rounded(samples: np.ndarray) -> np.ndarray:
    return np.rint(samples * 32767)


@pytest.mark.parametrize("make", [streamed, whole])
@pytest.mark.parametrize("name", ["wav", "flac"])
def test_lossless_formats_carry_every_sample_to_16_bits(name: str, make: Make) -> None:
    samples = tone(2.0)
    back = decoded(make(name, samples))
    # Files are read over 32768 and written over 32767, as everybody does.
    np.testing.assert_array_equal(np.rint(back * 32768), rounded(samples))


def test_pcm_is_the_bare_samples() -> None:
    samples = tone()
    data = streamed("pcm", samples)
    assert len(data) == 2 * samples.size
    assert data == encode_whole("pcm", samples, RATE_HZ)
    np.testing.assert_array_equal(rounded(from_s16le_bytes(data)), rounded(samples))


@pytest.mark.parametrize("rate_hz", [16_000, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("name", LOSSY)
def test_lossy_formats_carry_length_and_sound(name: str, rate_hz: int) -> None:
    samples = tone(2.0, rate_hz)
    back = decoded(streamed(name, samples, rate_hz), rate_hz)
    padding = back.size - samples.size
    assert -2 <= padding <= 0.15 * rate_hz  # the codec's delay and its last, filled-up frame
    max_delay = max(1, padding)
    match = aligned(samples, back[: samples.size + max_delay], max_delay)
    assert snr_db(samples[: match.size], match) > 15


@pytest.mark.parametrize("name", ["mp3", "opus", "flac", "wav"])
def test_a_whole_file_states_its_exact_length(name: str) -> None:
    samples = tone(1.7)
    rate_hz = OUTPUT_FORMATS[name].output_rate_hz(RATE_HZ)
    with sf.SoundFile(io.BytesIO(encode_whole(name, samples, RATE_HZ))) as file:
        assert file.samplerate == rate_hz
        assert abs(file.frames - samples.size * rate_hz / RATE_HZ) <= 1


@pytest.mark.parametrize("name", OUTPUT_FORMATS)
def test_bytes_come_out_while_samples_go_in(name: str) -> None:
    samples = tone(3.0)
    with make_encoder(name, RATE_HZ) as encoder:
        encoder.header()
        sizes = [
            len(encoder.feed(samples[at : at + CHUNK])) for at in range(0, samples.size, CHUNK)
        ]
        last = len(encoder.finish())
    assert sum(size > 0 for size in sizes[:4]) >= 2  # sound within 0.4 s of sound
    assert sum(sizes) > 0.9 * (sum(sizes) + last)
    # No stretch of more than 0.2 s in which nothing comes.
    assert all(a or b or c for a, b, c in zip(sizes[1:], sizes[2:], sizes[3:], strict=False))


@pytest.mark.parametrize("name", CONTAINERS)
def test_what_a_client_has_after_half_the_stream_is_half_the_sound(name: str) -> None:
    samples = tone(4.0)
    with make_encoder(name, RATE_HZ) as encoder:
        data = encoder.header() + encoder.feed(samples[: 2 * RATE_HZ])
        with av.open(io.BytesIO(data), "r") as container:
            stream = container.streams.audio[0]
            num_samples = sum(frame.samples for frame in container.decode(stream))
            assert num_samples / stream.rate == pytest.approx(2.0, abs=0.15)


@pytest.mark.parametrize("name", [*COMPRESSED, "wav", "pcm"])
def test_bytes_do_not_depend_on_how_the_samples_were_cut(name: str) -> None:
    samples = tone(1.0)
    at_once = streamed(name, samples, chunk=samples.size)
    # Ogg numbers its stream at random.
    strip = _without_serial if name == "opus" else bytes
    for chunk in (997, 2_048, 20_000):
        assert strip(streamed(name, samples, chunk=chunk)) == strip(at_once)


def _without_serial(data: bytes) -> bytes:
    pages = data.split(b"OggS")
    return b"OggS".join(page[:10] + page[14:18] + page[22:] for page in pages if page)


@pytest.mark.parametrize("name", OUTPUT_FORMATS)
def test_a_stream_without_speech_is_still_a_file(name: str) -> None:
    with make_encoder(name, RATE_HZ) as encoder:
        header = encoder.header()
        assert encoder.feed(np.zeros(0, np.float32)) == b""
        data = header + encoder.finish()
    assert bool(header) is (name not in ("pcm", "aac"))
    if name in ("mp3", "flac", "opus", "wav"):
        assert AI_GENERATED_COMMENT.encode() in data


@pytest.mark.parametrize("num_samples", [1, 100, 1_151, 1_153])
@pytest.mark.parametrize("name", OUTPUT_FORMATS)
def test_a_blink_of_sound_is_encoded(name: str, num_samples: int) -> None:
    assert len(streamed(name, tone()[:num_samples])) > 0


@pytest.mark.parametrize("make", [streamed, whole])
@pytest.mark.parametrize("name", CONTAINERS)
def test_files_say_that_the_speech_was_generated(name: str, make: Make) -> None:
    data = make(name, tone())
    with av.open(io.BytesIO(data), "r") as container:
        tags = {**container.metadata, **container.streams.audio[0].metadata}
    if OUTPUT_FORMATS[name].has_comment:
        assert AI_GENERATED_COMMENT in tags.values()
    else:
        assert name == "aac"


@pytest.mark.parametrize("name", OUTPUT_FORMATS)
def test_full_scale_and_beyond_is_clamped_and_never_wraps(name: str) -> None:
    loud = (1.5 * np.sin(2 * np.pi * 200 * np.arange(RATE_HZ) / RATE_HZ)).astype(np.float32)
    data = streamed(name, loud)
    back = from_s16le_bytes(data) if name == "pcm" else decoded(data)
    max_delay = max(1, back.size - loud.size)
    match = aligned(loud, back[: loud.size + max_delay], max_delay)
    assert snr_db(np.clip(loud, -1, 1)[: match.size], match) > 12


@pytest.mark.parametrize("name", ["opus", "mp3", "aac"])
def test_a_rate_the_codec_cannot_carry_is_resampled_upwards(name: str) -> None:
    samples = tone(1.0, 46_000)
    with make_encoder(name, 46_000) as encoder:
        assert encoder.sample_rate == 48_000
        data = encoder.header() + encoder.feed(samples) + encoder.finish()
    assert decoded(data).size / RATE_HZ == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("name", OUTPUT_FORMATS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_not_numbers_stop_the_file(name: str, bad: float) -> None:
    samples = tone(0.1)
    samples[7] = bad
    with make_encoder(name, RATE_HZ) as encoder, pytest.raises(GenerationError):
        encoder.feed(samples)
    with pytest.raises(GenerationError):
        encode_whole(name, samples, RATE_HZ)


def test_samples_of_another_shape_or_type_are_refused() -> None:
    with make_encoder("wav", RATE_HZ) as encoder:
        with pytest.raises(ValueError, match="float32"):
            encoder.feed(np.zeros(10))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="float32"):
            encoder.feed(np.zeros((2, 10), np.float32))


@pytest.mark.parametrize("name", ["xyz", "", "MP4", "wav; drop table", "x" * 500])
def test_an_unknown_format_is_refused_with_the_list_of_known_ones(name: str) -> None:
    with pytest.raises(UnsupportedFormatError, match="wav, pcm, mp3, flac, opus, aac") as caught:
        make_encoder(name, RATE_HZ)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("rate_hz", [-1, 0, 7_999, 96_001])
def test_a_sample_rate_out_of_range_is_refused(rate_hz: int) -> None:
    for name in OUTPUT_FORMATS:
        with pytest.raises(UnsupportedFormatError, match="8000 to 96000"):
            make_encoder(name, rate_hz)


@pytest.mark.parametrize("name", OUTPUT_FORMATS)
def test_an_ended_encoder_takes_no_more(name: str) -> None:
    encoder = make_encoder(name, RATE_HZ)
    encoder.finish()
    encoder.close()  # once more does no harm
    for call in (encoder.header, encoder.finish, lambda: encoder.feed(tone(0.1))):
        with pytest.raises(ValueError, match="ended"):
            call()


def _leave_in_the_middle(encoder: AudioEncoder, samples: np.ndarray) -> None:
    with encoder:
        encoder.feed(samples)
        raise ConnectionResetError


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_client_that_leaves_closes_the_encoder(name: str) -> None:
    encoder = make_encoder(name, RATE_HZ)
    with pytest.raises(ConnectionResetError):
        _leave_in_the_middle(encoder, tone(0.5))
    with pytest.raises(ValueError, match="ended"):
        encoder.feed(tone(0.1))


class SlowWriter:
    """A writer that is in the middle of a chunk until it may go on."""

    def __init__(self) -> None:
        self.is_feeding = threading.Event()
        self.may_go_on = threading.Event()
        self.calls: list[str] = []

    def header(self) -> bytes:
        return b""

    def feed(self, samples: np.ndarray) -> bytes:
        self.is_feeding.set()
        assert self.may_go_on.wait(10)
        self.calls.append("fed")
        return b"sound"

    def finish(self) -> bytes:
        return b""

    def close(self) -> None:
        self.calls.append("closed")


def test_closing_waits_for_a_chunk_that_another_thread_encodes() -> None:
    writer = SlowWriter()
    encoder = AudioEncoder(OUTPUT_FORMATS["mp3"], writer, RATE_HZ)
    feeding = threading.Thread(target=encoder.feed, args=(tone(0.1),))
    closing = threading.Thread(target=encoder.close)
    feeding.start()
    assert writer.is_feeding.wait(10)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()  # freeing the codec now would end the process
    writer.may_go_on.set()
    feeding.join()
    closing.join()
    assert writer.calls == ["fed", "closed"]


def _num_native_objects() -> int:
    native = (OutputContainer, AudioCodecContext, soxr.ResampleStream)
    # by type: asking a lazy proxy for its class may run code of other libraries
    return sum(issubclass(type(thing), native) for thing in gc.get_objects())


@pytest.mark.parametrize(("name", "num_native"), [("mp3", 2), ("flac", 2), ("aac", 2), ("opus", 3)])
def test_encoders_that_are_abandoned_and_kept_hold_no_codec_memory(
    name: str, num_native: int
) -> None:
    gc.collect()
    gc.disable()  # what only a collection frees would pile up under load
    try:
        before = _num_native_objects()
        kept = [make_encoder(name, RATE_HZ) for _ in range(5)]
        for encoder in kept:
            encoder.feed(tone(0.1))
        assert _num_native_objects() == before + 5 * num_native
        for encoder in kept:
            encoder.close()
        assert _num_native_objects() == before
    finally:
        gc.enable()
