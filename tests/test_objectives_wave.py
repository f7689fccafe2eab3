"""What the vocoder learns from: segments, the longer piece of its F0 network, and mel spectrograms of the flow."""

from dataclasses import replace

import pytest
import torch
from fake_corpus import make_features

from taste_min.config import tiny
from taste_min.data import FeatureStore
from taste_min.objectives_wave import VocoderObjective
from taste_min.stages import STAGES

HOP = 256
ROWS = [1, 5, 7, 9]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return FeatureStore(make_features(tmp_path_factory.mktemp("features")), "train")


def objective(stage: str) -> VocoderObjective:
    torch.manual_seed(0)
    return STAGES[stage].objective(tiny())


def load(model: VocoderObjective, store: FeatureStore, seed: int = 0):
    return model.load(store, ROWS, torch.Generator().manual_seed(seed))


def losses(model: VocoderObjective, batch, step: int = 0) -> dict[str, float]:
    torch.manual_seed(0)  # the noise of the source
    model.loss(batch, "adversary", step)
    loss, logs = model.loss(batch, "model", step)
    return {"loss": loss.item(), **{name: value.item() for name, value in logs.items()}}


# --- after the flow


def test_half_of_a_batch_is_what_the_flow_makes_of_the_units(store):
    model = objective("vocoder_flow").train()
    model.flow.config = replace(model.flow.config, mel_mean=-6.0, mel_std=2.5)
    batch, real = load(model, store), store.segments(ROWS, 10, torch.Generator().manual_seed(0))
    assert torch.equal(batch.mel[2:], real.mel[2:])
    for name in ("f0", "wav", "starts"):  # the target stays the recording
        assert torch.equal(getattr(batch, name), getattr(real, name))
    assert len(set(batch.starts[:2].tolist())) == 2
    flow = model.flow.eval()
    for row, i in enumerate(ROWS[:2]):
        alone = store.units_and_mel([i])
        mu, *_ = flow.encode(alone.units, alone.unit_lengths, alone.mel_lengths, alone.speaker_embedding)
        mu, start = mu[0].detach() * 2.5 - 6.0, int(batch.starts[row])
        torch.testing.assert_close(batch.mel[row], mu[:, start : start + 10], atol=1e-4, rtol=1e-4)
        assert (mu[:, start - 1 : start + 9] - batch.mel[row]).abs().max() > 1e-3  # another place is something else


def test_evaluation_and_the_first_stage_read_real_mel_spectrograms(store):
    model = objective("vocoder_flow").eval()
    real = store.segments(ROWS, 10, torch.Generator().manual_seed(0))
    assert torch.equal(load(model, store).mel, real.mel)
    plain = objective("vocoder").eval()
    assert torch.equal(load(plain, store).mel, real.mel) and not hasattr(plain, "flow")


def test_the_flow_is_frozen_and_not_exported(store):
    model = objective("vocoder_flow").train()
    assert sorted(model.exports()) == ["vocoder"]
    assert not any(parameter.requires_grad for parameter in model.flow.parameters())
    batch = load(model, store)
    for part in model.parts:
        loss, _ = model.loss(batch, part, 0)
        loss.backward()
        assert all(parameter.requires_grad for parameter in model.module(part).parameters())
    assert all(parameter.grad is None for parameter in model.flow.parameters())
    assert any(parameter.grad is not None for parameter in model.vocoder.parameters())


# --- the piece that is made into sound, and the longer one that F0 is learnt from


def test_f0_is_learnt_from_the_whole_piece_and_sound_from_the_segment(store):
    model = objective("vocoder").eval()  # step 0: the segment is frames 0 .. 7 of 10
    batch = load(model, store)
    before = losses(model, batch)
    f0, wav = batch.f0.clone(), batch.wav.clone()
    f0[:, 8:] += 50
    wav[:, 8 * HOP :] = 0
    other = losses(model, replace(batch, f0=f0))
    assert other["f0_hz"] != before["f0_hz"] and other["mel"] == before["mel"]
    assert losses(model, replace(batch, wav=wav)) == before
    wav[:, : 8 * HOP] = 0
    assert losses(model, replace(batch, wav=wav))["mel"] != before["mel"]


def test_the_segment_moves_through_the_piece_and_both_parts_hear_the_same(store):
    model = objective("vocoder").eval()
    batch = load(model, store)
    heard, starts = [], set()
    model.adversary.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0].detach()))
    for step in range(3, 9):  # the adversary is there from step 3 on
        heard.clear()
        losses(model, batch, step)
        real, fake, real_again, fake_again = heard
        assert torch.equal(real, real_again) and torch.equal(fake, fake_again)
        places = [k for k in range(3) if torch.equal(real, batch.wav[:, k * HOP : (k + 8) * HOP])]
        assert len(places) == 1
        starts.update(places)
    assert starts == {0, 1, 2}
