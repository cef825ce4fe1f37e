"""Every setting of the service, read once at start from the environment and ``.env``.

The text under a field is its documentation: ``scripts/make_env_example.py`` writes ``.env.example``
from it and a test compares the two. A key of ``.env`` that is no setting stops the start, and so
does a value outside its range. In the environment other programs' keys live too, so there only
known names are read; a near miss of a known name (``QUANTISATION``) is refused as well.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from backend.core.api_keys import hash_keys
from backend.core.cluster_settings import cluster_keys
from backend.core.errors import SettingsError
from backend.core.setting_names import explained, keys_of, refuse_near_misses, refuse_unknown

if TYPE_CHECKING:
    from collections.abc import Iterable

FOREIGN_KEYS = frozenset(
    {
        "UI_BACKEND_URL",
        "UI_HOST",
        "UI_GRADIO_PORT",
        "UI_STREAMLIT_PORT",
        "UI_TIMEOUT_S",
        "UI_API_KEY",
    }
)
"""Keys of the pages (``ui/settings.py``); they share ``.env`` with the service."""

_SECRET_KEYS = frozenset({"HF_TOKEN", "API_KEYS"})
"""Keys whose values no message quotes."""


class Settings(BaseSettings):
    """Settings of the service. Frozen: what the service started with is what it runs with."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        case_sensitive=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
    )

    # --- model ---------------------------------------------------------------------------------
    model: str = Field(default="pocket", min_length=1)
    """Which voice model to load: `pocket` (inside the project, works offline on a CPU),
    `openaudio-s1-mini` (fetched by scripts/download_model.py), or the path of a model directory."""

    models_dir: Path = Path("checkpoints")
    """Where downloaded models live; `openaudio-s1-mini` is looked for in this folder."""

    # --- server --------------------------------------------------------------------------------
    host: str = Field(default="127.0.0.1", min_length=1)
    """Address to listen on. 127.0.0.1 serves this machine only; 0.0.0.0 serves the network."""

    port: int = Field(default=8000, ge=1, le=65535)
    """Port to listen on."""

    cors_origins: Annotated[tuple[str, ...], NoDecode] = (
        "http://127.0.0.1:7860",
        "http://localhost:7860",
        "http://127.0.0.1:8501",
        "http://localhost:8501",
    )
    """Web pages that may call the service from a browser, separated by commas. `*` allows all."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much to log."""

    log_format: Literal["text", "json"] = "text"
    """`text` for people, `json` for log collectors (one object a line)."""

    # --- device and precision ------------------------------------------------------------------
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda|cuda:\d+)$")
    """`auto` takes the first CUDA card, else the CPU; or `cpu`, `cuda`, `cuda:1`."""

    mixed_precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Number format of the transformer. `auto`: bf16 on cards of compute capability 8.0 and
    above, fp16 on older cards, fp32 on a CPU. The codec has a setting of its own."""

    codec_precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """Number format in which the codec makes samples. `auto`: fp16 on a card, fp32 on a CPU. Its
    last layers and the encoder of recordings are fp32 always; `fp32` keeps TF32 out of them."""

    codec_fused: bool = True
    """Make samples in the codec's own Triton kernels where Triton is installed, `CODEC_PRECISION`
    is not `fp32` and the card's compute capability is 8.0 or above. No effect on a CPU."""

    codec_fused_encoder: bool = True
    """Run the convolutions of the encoder in these kernels as well, unless `ENCODER_ON_HOST`."""

    fused_kernels: bool = True
    """Run the transformer's decode step in the project's own Triton kernels where Triton is
    installed and the card's compute capability is 8.0 or above. No effect on a CPU."""

    resident_kernels: bool = True
    """On Hopper cards (compute capability 9.0), in bf16: run a decode step of up to 16 streams as
    two kernels that stay on the card, which is faster still. NVRTC, which comes with PyTorch,
    compiles them at the first start. Needs `FUSED_KERNELS`; where such a card cannot use
    them, /health says why. `false` starts a chain of kernels instead. No effect on other cards."""

    batch_kernels: bool = True
    """On Hopper cards, in bf16: decode steps of up to 32 streams, but for the few that resident
    kernels are faster for (4, or 8 with int8 weights), multiply in CUDA kernels that join a
    product with all around it. Otherwise as `RESIDENT_KERNELS`."""

    batch_invariant: Literal["auto", "on", "off"] = "auto"
    """On a card: a seed gives the same codes in any company, to the last bit, also in half
    precision. Every step then takes as long as one of `MAX_SLOTS` streams. `auto` does so with up
    to 8 slots, where that costs least. Needs `FUSED_KERNELS`. On a CPU it is always so."""

    compile_ahead: bool = True
    """On a card: compile kernels on all cores from the first moment of a start. They stay in
    Triton's cache, so later starts have little to compile."""

    cuda_graphs: bool = True
    """Capture the engine's steps as CUDA graphs: one start for hundreds of kernels. `false` starts
    each kernel by itself, which is slower and needs less memory. No effect on a CPU."""

    quantization: Literal["none", "int8", "nf4"] = "none"
    """Weights of the transformer's linear layers with fewer bits: `int8` halves them against bf16
    (at most 1 % error a layer), `nf4` takes a quarter (at most 10 %). Plain checkpoints are
    quantized while they load; one saved by `scripts/convert_checkpoint.py --quantize` needs the
    same value here. On a CPU they save memory; time is saved by `int8` with bf16 alone."""

    enable_torch_compile: bool = False
    """Compile layers that run in plain PyTorch with torch.compile: where the project's own kernels
    are off or cannot run. Needs a C++ compiler, on a card Triton as well; without them /health
    says so and nothing changes. The first start takes minutes longer, later ones 20 s: what was
    compiled is kept in `DATA_DIR`. On a CPU it is no faster."""

    cpu_threads: int = Field(default=0, ge=0, le=256)
    """Threads for the model's work on a CPU. 0 takes all cores but one, at most 8: they wait
    for each other by spinning, so with no core left for others everything slows down."""

    cpu_fast_linear: bool = True
    """On a CPU: decode steps with weights packed in float16, where the checkpoint's weights are
    exactly that (products and sums stay float32), in fixed buffers. About four times as fast;
    where it cannot be used, /health says why. `false` uses plain PyTorch layers."""

    # --- size and memory -----------------------------------------------------------------------
    max_seq_len: int = Field(default=4096, ge=256, le=32768)
    """Positions a sequence can have: prompt tokens, reference frames and new frames together.
    Each slot keeps this many in memory (112 KiB a position for S1-mini in bf16). Models with
    fewer positions use their own limit."""

    max_slots: int = Field(default=4, ge=1, le=128)
    """Requests that are spoken at the same time; further ones wait in the queue."""

    max_queue: int = Field(default=64, ge=0, le=10000)
    """Requests that may wait; one more gets 429 with Retry-After."""

    scheduling: Literal["deadline", "fifo"] = "deadline"
    """Who goes first when many are served. `deadline`: the stream whose listener would run dry
    first; a new one starts when the others' buffers outlast its prompt. `fifo`: all in turn."""

    admission: Literal["queue", "refuse"] = "queue"
    """A new stream that the engine could not keep up with waits (`queue`) or gets 429 with
    Retry-After and X-Predicted-TTFA-Ms (`refuse`). Whole files always wait."""

    max_ttfa_s: float = Field(default=2.0, ge=0, le=3600)
    """With ADMISSION=refuse: longest predicted time to the first sound, in seconds. 0: no limit,
    only streams that would make others run dry are refused."""

    request_timeout_s: float = Field(default=0.0, ge=0, le=86400)
    """Longest time that one stretch of a text (a sentence or a few) may take, waiting for a slot
    included and time in which the client takes nothing left out. Before the first sound it ends
    with 504, after it the speech ends there. 0: 30 s and four times what the measured speed and the
    length of the text let expect."""

    memory_budget_mb: int = Field(default=0, ge=0, le=16777216)
    """MiB that weights, slots and working memory may take together, on the card or, with
    `DEVICE=cpu`, in the host. 0: 90 % of what is free at the start. A plan that does not fit stops
    the start and says which settings would."""

    expandable_memory: bool = True
    """On a card under Linux: memory grows in place (`expandable_segments`), so that little of it
    lies unused between tensors. `false` leaves that to `PYTORCH_CUDA_ALLOC_CONF`."""

    chunk_size: int = Field(default=32, ge=1, le=512)
    """Most frames of a request that the codec decodes in one go (46 ms a frame for S1-mini). Bounds
    the codec's memory, and the size of the chunks of a stream once it runs. Whole files
    take up to four times as many, at most 128, where the codec runs in fused kernels."""

    codec_batching: bool = True
    """Decode the chunks of several requests together. The samples are the same either way; `false`
    decodes one request after another."""

    num_streams: int = Field(default=0, ge=0, le=2)
    """CUDA streams. With `2` the codec makes sound while the next frames of other requests are
    drawn: up to a tenth more speech from an H200; what is heard is the same. `1` does one after the
    other and needs less memory. `0` takes `2` where there are more than 16 slots. No effect on a
    CPU."""

    host_embeddings: Literal["none", "text", "all"] = "text"
    """Embeddings that stay in the host; the card reads the rows it needs over the bus. `text`: 0.3
    GB of S1-mini, `all`: 0.4 GB, with those that every frame reads. No effect on a CPU."""

    kv_quantization: Literal["none", "int8", "int4"] = "none"
    """Keys and values of the slots with fewer bits: `int8` halves them against bf16 (1 % error),
    `int4` takes a quarter (12 %). Only where FUSED_KERNELS run."""

    encoder_on_host: bool = False
    """Keep the encoder of recordings in the host: 0.8 GB less, tenths of a second a recording."""

    prefix_cache_mb: int = Field(default=128, ge=0, le=1048576)
    """MiB on the model's device for what prompts leave behind: a voice that spoke before prefills
    only its text. 20 s of a voice take about 9 MiB for the pocket voice and 50 MiB for S1-mini
    in bf16. The least recently used go first; 0 turns it off. What is spoken does not change."""

    cache_limit: int = Field(default=256, ge=0, le=1048576)
    """MiB of memory for the caches of reference codes and of spoken texts, together; the least
    recently used entries go first. 0 turns the caches off."""

    speech_guard: bool = True
    """Look after speech that goes wrong (endless, stuck in a loop, silent): whole files are made
    again once with another seed, streams are cut where it begins (finish reason `cut`)."""

    shutdown_grace_s: int = Field(default=30, ge=0, le=3600)
    """Seconds that speech under way may take to end once the service is told to stop; nothing new
    is taken meanwhile. What is not done by then is cut. A second signal stops at once."""

    # --- limits --------------------------------------------------------------------------------
    max_text_chars: int = Field(default=10000, ge=1, le=1000000)
    """Longest text of a request, in characters."""

    max_upload_mb: int = Field(default=20, ge=1, le=1024)
    """Largest request body, in MiB."""

    min_reference_s: float = Field(default=1.0, ge=0.1, le=30.0)
    """Shortest reference recording, in seconds."""

    max_reference_s: float = Field(default=90.0, ge=1.0, le=3600.0)
    """Longest reference recording, in seconds. 5 to 30 s are best."""

    # --- access --------------------------------------------------------------------------------
    api_keys: Annotated[tuple[str, ...], NoDecode] = ()
    """Keys that clients have to send, separated by commas (`Authorization: Bearer KEY` or
    `x-api-key: KEY`); without any, everybody who reaches the port may use the service. Each is
    either the key itself (8 characters or more) or `sha256:` and the SHA-256 of it in hex, so
    that the key need not be stored. Only `/`, `/health`, `/health/ready`, `/v1/health` and `/docs`
    stay open."""

    rate_limit_per_minute: int = Field(default=0, ge=0, le=1000000)
    """Requests a minute that one key (one client address where there are no keys) may make, in
    bursts of up to as many; more get 429 with Retry-After. Reading (GET) is not counted. 0: no
    limit."""

    max_concurrent_per_key: int = Field(default=0, ge=0, le=10000)
    """Requests and WebSocket connections that one key (or address) may have open at a time; more
    get 429. Reading (GET) is not counted. 0: no limit."""

    # --- OpenAI dialect ------------------------------------------------------------------------
    openai_voice_aliases: Annotated[tuple[str, ...], NoDecode] = (
        "alloy=kit",
        "ash=ross",
        "ballad=angus",
        "cedar=bruno",
        "coral=sally",
        "echo=ross",
        "fable=angus",
        "marin=stella",
        "nova=stella",
        "onyx=bruno",
        "sage=selma",
        "shimmer=sally",
        "verse=robin",
    )
    """Voices by the names that OpenAI's clients send, as `alias=voice`, separated by commas. An
    alias whose voice is not there gets one of the voices that are, the same one every time, and
    the answer says so. A voice that has the alias as its own name comes first."""

    openai_model_aliases: Annotated[tuple[str, ...], NoDecode] = (
        "tts-1",
        "tts-1-hd",
        "gpt-4o-mini-tts",
    )
    """Model names of OpenAI's clients that mean the loaded model, separated by commas. `*` takes
    any name."""

    # --- stored data ---------------------------------------------------------------------------
    data_dir: Path = Path("data")
    """Folder for what the service keeps over a restart: voices and jobs. Made when it is needed."""

    voices_url: str = ""
    """Shared place of added voices, e.g. s3://bucket/voices (needs s3fs). Empty: DATA_DIR."""

    max_voices: int = Field(default=1000, ge=0, le=10000)
    """Most added voices that are kept; the model's own are not counted. 0: none can be added."""

    # --- batches and jobs ----------------------------------------------------------------------
    max_batch_items: int = Field(default=64, ge=1, le=1000)
    """Most requests of one POST /tts/batch."""

    max_job_chars: int = Field(default=1000000, ge=1, le=10000000)
    """Longest text of a job, in characters."""

    max_jobs: int = Field(default=100, ge=0, le=100000)
    """Jobs that are kept in DATA_DIR, finished ones included; one more is refused until some are
    deleted. 0: no jobs."""

    max_jobs_mb: int = Field(default=1024, ge=1, le=1048576)
    """MiB on the disk for all jobs together; an hour of speech takes about 2 MiB for S1-mini. A job
    that would exceed it stops, and can be resumed when others are deleted."""

    max_running_jobs: int = Field(default=1, ge=1, le=64)
    """Jobs that are spoken at the same time. Each takes one of MAX_SLOTS, and starts a stretch of
    text only when no request waits for one."""

    # --- engine process ------------------------------------------------------------------------
    engine_isolation: Literal["process", "thread"] = "process"
    """Where the engine runs. `process`: in one of its own, which is started again when it dies;
    the service stays up and waiting requests are kept. `thread`: inside the service, for Ray and
    notebooks; a crash of the engine then ends everything."""

    engine_hang_timeout_s: float = Field(default=300.0, ge=5.0, le=86400.0)
    """Seconds after which an engine process that has work and gives no sign of life is killed and
    started again. Longer than the longest single step: a prefill of MAX_SEQ_LEN positions."""

    engine_load_timeout_s: float = Field(default=1800.0, ge=10.0, le=86400.0)
    """Seconds that an engine process may take to load the model and warm up."""

    # --- downloads -----------------------------------------------------------------------------
    hf_token: SecretStr | None = None
    """Access token for gated models on Hugging Face; only scripts/download_model.py uses it."""

    hf_endpoint: str = "https://huggingface.co"
    """Hub to download from; a mirror or a local hub."""

    @field_validator("api_keys", mode="before")
    @classmethod
    def _hash_keys(cls, value: object) -> object:
        entries = _split(value)
        if not isinstance(entries, tuple | list):
            return entries
        return hash_keys(cast("Iterable[object]", entries))

    @field_validator("openai_voice_aliases", "openai_model_aliases", mode="before")
    @classmethod
    def _split_aliases(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("openai_voice_aliases")
    @classmethod
    def _require_pairs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pair in value:
            alias, separator, voice = pair.partition("=")
            if not (separator and alias.strip() and voice.strip()):
                raise ValueError(f"{pair!r} is not alias=voice, as in alloy=kit")
        return value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        return _split(value)


def read_settings(env_file: Path | None = Path(".env"), **overrides: Any) -> Settings:
    """Read the settings.

    Args:
        env_file: ``KEY=value`` lines; skipped when None or absent.
        overrides: Values that win over both file and environment, by field name.

    Raises:
        SettingsError: A key is unknown or a value is malformed; the message names it.
    """
    present = env_file if env_file is not None and env_file.is_file() else None
    if present is not None:
        refuse_unknown(keys_of(present), _known_keys(), FOREIGN_KEYS | cluster_keys(), str(present))
    refuse_near_misses(os.environ, _known_keys())
    try:
        return Settings(_env_file=present, _env_file_encoding="utf-8", **overrides)  # pyright: ignore[reportCallIssue]
    except ValidationError as error:
        raise SettingsError(explained(error, _SECRET_KEYS)) from error


def _split(value: object) -> object:
    """Cut text at its commas; leave anything else to pydantic."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _known_keys() -> list[str]:
    return [name.upper() for name in Settings.model_fields]
