"""Training rows and the dual-AR's step."""

import numpy as np
import pytest
import torch

from scripts.pocket.encode_shards import utterance_columns
from scripts.pocket.lm_net import DualAR, LMSizes
from scripts.pocket.lm_rows import UNKNOWN_VOICE_FRAMES, RowStore
from scripts.pocket.train_lm import LMTrainer, LMTraining

LM = LMSizes(
    dim=32, n_layer=1, n_head=2, head_dim=16, intermediate_size=48, n_fast_layer=1, fast_dim=32,
    fast_n_head=2, fast_head_dim=16, fast_intermediate_size=32, codebook_size=32,
    num_codebooks=4, max_seq_len=512, dropout=0.0,
)  # fmt: skip
FRAMES = 20


@pytest.fixture
def folder(tmp_path):
    """Sixty utterances of speakers 0, 1 and 2."""
    rng = np.random.default_rng(0)
    opening = np.zeros((1, 5), np.int16)
    opening[0, 0] = LM.interleave
    parts, index, position = [opening], [], 1
    for number in range(60):
        columns = utterance_columns(LM, "Hello.", rng.integers(0, 32, (4, FRAMES)))
        index.append((position, len(columns), 6, number % 3))
        parts.append(columns)
        position += len(columns)
    np.save(tmp_path / "columns.npy", np.concatenate(parts))
    np.save(tmp_path / "index.npy", np.array(index, np.int64))
    return tmp_path


def test_an_utterance_is_speaker_text_frames_end():
    columns = utterance_columns(LM, "Hi", np.arange(8).reshape(4, 2))
    assert columns[:, 0].tolist() == [
        LM.speaker, ord("H"), ord("i"), LM.semantic_begin, LM.semantic_begin + 1, LM.im_end,
    ]  # fmt: skip
    assert columns[3].tolist() == [LM.semantic_begin, 0, 2, 4, 6]


def test_loss_falls_on_frames_and_ends_only(folder):
    store = RowStore(folder, torch.device("cpu"), held_out=3, seed=0)
    batch = store.batch(8, 90, default_share=0.0)
    judged = batch.rows[..., 0][batch.is_judged]
    assert bool((judged >= LM.semantic_begin).logical_or(judged == LM.im_end).all())
    assert bool((batch.rows[:, 0, 0] == LM.interleave).all())


def test_the_first_frames_of_an_unknown_voice_bear_no_loss(folder):
    store = RowStore(folder, torch.device("cpu"), held_out=3, seed=0)
    first = slice(8, 8 + UNKNOWN_VOICE_FRAMES)  # interleave, speaker, six bytes
    default = store.batch(8, 90, default_share=1.0)
    assert bool(default.is_judged[:, first].all())
    seen = [store.batch(1, 90, default_share=0.0).is_judged[0, first] for _ in range(20)]
    assert any(not bool(marks.any()) for marks in seen)


def test_held_out_rows_judge_only_the_held_out_utterance(folder):
    store = RowStore(folder, torch.device("cpu"), held_out=3, seed=0)
    batch = store.held_rows(4, 90)
    one = 1 + len("Hello.") + FRAMES + 1
    assert not bool(batch.is_judged[:, : 1 + one].any())
    assert int(batch.is_judged[0].sum()) == FRAMES + 1


def test_a_step_learns_and_validation_is_finite(folder):
    store = RowStore(folder, torch.device("cpu"), held_out=3, seed=0)
    training = LMTraining(1.0, rows=4, row_length=90, fast_frames=64, corrupted=0.0)
    trainer = LMTrainer(DualAR(LM), training, torch.device("cpu"))
    trainer.set_rate(3e-3)
    batch = store.batch(4, 90, default_share=0.1)
    losses = [trainer.step(batch)[0].item() for _ in range(25)]
    assert losses[-1] < losses[0] - 0.3
    assert all(np.isfinite(v) for v in trainer.validate(store.held_rows(4, 90)).values())


def test_corruption_changes_frames_and_leaves_text_alone(folder):
    store = RowStore(folder, torch.device("cpu"), held_out=3, seed=0)
    trainer = LMTrainer(DualAR(LM), LMTraining(1.0, corrupted=0.5), torch.device("cpu"))
    rows = store.batch(4, 90, default_share=0.1).rows
    changed = trainer._corrupt(rows)
    is_frame = (rows[..., 0] >= LM.semantic_begin) & (rows[..., 0] < LM.speaker)
    assert torch.equal(changed[~is_frame], rows[~is_frame])
    assert not torch.equal(changed[is_frame], rows[is_frame])
    assert torch.equal(changed[is_frame][:, 0] - LM.semantic_begin, changed[is_frame][:, 1])
