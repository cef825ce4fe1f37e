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
from backend.engine.attention import AttentionKind, MaskedAttention, RowAttention, StepPlan
from backend.engine.prefill import prefill_rows
from backend.models.codec import Codec, CodecConfig
from backend.models.config import DualARConfig
from backend.models.dual_ar import DualAR
from tests.decoding import new_decoder

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
def model(request: pytest.FixtureRequest) -> DualAR:
    with ELSEWHERE:
        model = DualAR(DualARConfig.from_file(POCKET / "config.json"))
    move_weights(model, request.param)
    model.rebuild_rope(ELSEWHERE)
    model.bind_tokens(271, 512, 260)
    return model


@pytest.mark.parametrize("attention", [RowAttention, MaskedAttention])
def test_a_prompt_and_a_frame_stay_where_the_weights_are(model: DualAR, attention: AttentionKind):
    decoder = new_decoder(model, 2, attention=attention, max_positions=64)
    rows = torch.zeros(9, 20, dtype=torch.int64)  # prompts come from the CPU
    for slot in range(2):
        view = decoder.store.view(slot)
        for part in rows[:, :-1].split(10, dim=1):
            prefill_rows(model, part, view)
        decoder.state.begin(slot, rows[:, -1], DRAWN)
    plan = StepPlan(2, 20, rows=((0, 19), (1, 19)))
    codes = decoder.step(torch.zeros(4, dtype=torch.int64, device=ELSEWHERE), plan)
    assert codes.shape == (2, 8)
    state = decoder.state
    tensors = (codes, state.pending, state.recent, state.steps, decoder.store.lengths)
    assert {t.device for t in tensors} == {ELSEWHERE}
    assert decoder.store.data.dtype == model.embeddings.weight.dtype


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
