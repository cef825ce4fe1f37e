"""Every stage runs where its weights are: no tensor may be left on the CPU.

The weights lie on the meta device, which knows shapes, types and devices but no numbers. Sums,
joins and choices that mix it with the CPU fail there as they would with a card. What the numbers
are on a card is for the tests marked ``gpu``.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from backend.core.types import SamplingParams
from backend.engine.decode_step import FrameDecoder
from backend.engine.kv_cache import KVCache
from backend.engine.prefill import prefill_prompt
from backend.engine.sampling import sample_code
from backend.engine.slots import Slot
from backend.models.codec import Codec, CodecConfig
from backend.models.config import DualARConfig
from backend.models.dual_ar import DualAR

POCKET = Path(__file__).parents[3] / "backend" / "pocket"
ELSEWHERE = torch.device("meta")
DRAWN = SamplingParams(temperature=0.7, top_p=0.9, top_k=20, repetition_penalty=1.2)
CODEC = CodecConfig(
    encoder_dim=8, latent_dim=32, decoder_dim=32, dim=32, n_head=1, head_dim=32, n_layer=1,
    intermediate_size=32, encoder_transformer_layers=(0, 0, 0, 0), window_size=4,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def move_weights(module: nn.Module, dtype: torch.dtype) -> None:
    weights = module.state_dict().items()
    empty = {name: torch.empty(w.shape, dtype=dtype, device=ELSEWHERE) for name, w in weights}
    module.load_state_dict(empty, assign=True)


@pytest.fixture(params=[torch.bfloat16, torch.float16])
def decoder(request: pytest.FixtureRequest) -> FrameDecoder:
    config = DualARConfig.from_file(POCKET / "config.json")
    with ELSEWHERE:
        model = DualAR(config)
    move_weights(model, request.param)
    model.rebuild_rope(ELSEWHERE)
    model.bind_tokens(271, 512, 260)
    fast_kv = KVCache(
        config.n_fast_layer, config.fast_n_local_heads, config.num_codebooks,
        config.fast_head_dim, ELSEWHERE, request.param,
    )  # fmt: skip
    return FrameDecoder(model, fast_kv, 512, 512, 271)


def slot_of(decoder: FrameDecoder) -> Slot:
    config = decoder.model.config
    kv = KVCache(
        config.n_layer, config.n_local_heads, 64, config.head_dim, ELSEWHERE,
        decoder.model.embeddings.weight.dtype,
    )  # fmt: skip
    recent = torch.zeros(config.num_codebooks, 16, dtype=torch.int64, device=ELSEWHERE)
    return Slot(kv, sampling=DRAWN, recent=recent)


def test_a_prompt_and_a_frame_stay_where_the_weights_are(decoder: FrameDecoder):
    slot = slot_of(decoder)
    rows = torch.zeros(
        1 + decoder.num_codebooks, 20, dtype=torch.int64
    )  # prompts come from the CPU
    slot.hidden = prefill_prompt(decoder.model, rows, slot.kv)
    logits = decoder.model.semantic_logits(slot.hidden)[0]
    assert slot.recent is not None
    semantic = sample_code(logits, torch.ones(513, device=ELSEWHERE), DRAWN, slot.recent[0])
    noise = tuple(torch.ones(512, device=ELSEWHERE) for _ in range(decoder.num_codebooks))
    frame = decoder._draw_residuals(slot, slot.hidden, semantic, noise, slot.recent)
    assert frame.shape == (decoder.num_codebooks,)
    slot.pending_row = torch.cat([semantic[None] + 271, frame])[None, :, None]
    hidden = decoder._last_hidden(slot)
    assert {t.device for t in (slot.hidden, logits, semantic, frame, hidden)} == {ELSEWHERE}
    assert hidden.dtype == decoder.model.embeddings.weight.dtype


def test_the_codec_stays_where_its_weights_are():
    with ELSEWHERE:
        codec = Codec(CODEC)
    move_weights(codec, torch.float32)
    codes = codec.encode_reference(torch.zeros(1, 5 * codec.frame_length))
    assert (codes.device, tuple(codes.shape)) == (ELSEWHERE, (1, codec.num_codebooks, 5))
    state = codec.new_decode_state(1)
    for part in codes.split([1, 4], dim=2):
        samples = codec.decode_stream(part, state)
        assert (samples.device, samples.dtype) == (ELSEWHERE, torch.float32)
        assert samples.shape == (1, part.shape[2] * codec.frame_length)
