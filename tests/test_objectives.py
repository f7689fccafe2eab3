"""What the training adds to the losses: alignment, prosody, centring. Each check has a broken variant that fails it."""

from dataclasses import replace

import pytest
import torch
from fake_corpus import make_features

from taste_min.config import FlowConfig, tiny
from taste_min.data import FeatureStore
from taste_min.features import shifted, word_prosody
from taste_min.flow import Flow
from taste_min.objectives import GUIDED_HEAD, TokenizerObjective
from taste_min.unit_decoder import UnitDecoder
from taste_min.units import relative_pitch


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return FeatureStore(make_features(tmp_path_factory.mktemp("features")), "train")


def looking(batch, layer, ahead: int) -> None:
    """Attention of a model that looks at the token being spoken, or at that of the word `ahead` words further."""
    size = int((batch.token_lengths + 3 + batch.unit_lengths).max())
    attention = torch.zeros(len(batch.token_ids), 4, size, size)
    for b, words in enumerate(batch.unit_words):
        last = int(batch.word_ids[b].max())
        for u in range(int(batch.unit_lengths[b])):
            tokens = (batch.word_ids[b] == min(int(words[u]) + ahead, last)).nonzero()[:, 0]
            tokens = tokens[tokens < batch.token_lengths[b]]
            token = tokens[min(int(batch.unit_progress[b, u] * len(tokens)), len(tokens) - 1)]
            attention[b, GUIDED_HEAD, int(batch.token_lengths[b]) + 2 + u, 2 + token] = 1
    layer.attention_map = attention


def test_alignment_loss_is_small_on_the_spoken_token_and_only_there(store):
    objective = TokenizerObjective(tiny(), audio=False, quantize=False)
    batch = store.text_and_units([0, 3, 4], None)
    losses = {}
    for ahead in (0, 1):
        for layer in objective.guided_layers():
            looking(batch, layer, ahead)
        losses[ahead] = float(objective.alignment_loss(batch))
    assert losses[0] < 0.1 < 1 < losses[1]


def test_units_belong_to_the_word_that_is_spoken_or_comes_next(store):
    batch = store.text_and_units([0], None)
    n = int(batch.unit_lengths[0])
    times = store.tensor(0, "word_times")
    for u in range(n):
        expected = next((w for w, (_, end) in enumerate(times) if end > (u + 0.5) / 50), len(times) - 1)
        assert int(batch.unit_words[0, u]) == expected


def test_the_exported_aggregator_gives_the_centred_vectors_of_training(store):
    torch.manual_seed(0)
    objective = TokenizerObjective(tiny(), audio=True, quantize=True).eval()
    batch = store.text_and_units([0, 3, 4], "hidden_2")
    mask = objective.token_mask(batch)
    with torch.no_grad():
        centred = objective.centre_on(objective.pooled(batch)[mask])
        trained = objective.word_vectors(batch)[mask]
        plain = objective.pooled(batch)[mask]
        objective.aggregator = objective.centred_aggregator()
        exported = objective.pooled(batch)[mask]
    torch.testing.assert_close(trained, centred)
    torch.testing.assert_close(exported, trained, atol=1e-4, rtol=1e-4)
    assert (plain - trained).abs().max() > 0.1  # without the folding it is something else
    assert centred.mean(dim=0).abs().max() < 1e-4


def test_prosody_of_words():
    mel = torch.zeros(80, 172)  # 2 s
    mel[:, 86:] = 1.0
    f0 = torch.cat([torch.full((86,), 100.0), torch.full((86,), 200.0)])
    table = word_prosody(mel, f0, [("a", 0.0, 0.5), ("b", 1.2, 1.6)])
    assert table[:, 0].exp().tolist() == pytest.approx([0.5, 0.4], abs=1e-3)
    assert float(table[1, 1] - table[0, 1]) == pytest.approx(0.693, abs=1e-2)  # an octave
    assert table[:, 2].tolist() == pytest.approx([-0.5, 0.5])
    assert word_prosody(mel, torch.zeros(172), [("a", 0.0, 0.5)])[0, 1].isnan()


def test_prosody_error_skips_what_is_unknown(store):
    objective = TokenizerObjective(tiny(), audio=True, quantize=False)
    batch = store.text_and_units([0, 3], "hidden_2")
    taste = torch.randn(*batch.token_ids.shape, 32)
    error, known = objective.prosody_error(batch, taste)
    assert known.any() and error.isfinite().all() and not error[~known].any()
    nothing = replace(batch, prosody=torch.full_like(batch.prosody, torch.nan))
    assert not objective.prosody_error(nothing, taste)[1].any()


def test_shifted_recordings_keep_their_words():
    wav = torch.zeros(22050)
    wav[11025] = 1.0  # a click in the middle
    faster, times = shifted(wav, [("a", 0.0, 0.5)], 1.25)
    assert len(faster) == pytest.approx(22050 / 1.25, abs=2)
    assert int(faster.abs().argmax()) / 22050 == pytest.approx(times[0][2], abs=1e-3)


def test_relative_pitch_follows_the_melody_and_not_the_voice():
    def two_tones(low: float, high: float) -> torch.Tensor:
        hz = torch.cat([torch.full((16000,), low), torch.full((8000,), high)])
        phase = 2 * torch.pi * (hz / 16000).cumsum(0)
        return 0.1 * sum(torch.sin(k * phase) / k for k in range(1, 8))

    melody = relative_pitch(two_tones(100, 130), 75)
    assert melody[10:40].abs().max() < 0.02 and melody[55:70].mean() == pytest.approx(0.262, abs=0.02)  # log 1.3
    assert (melody - relative_pitch(two_tones(150, 195), 75))[10:70].abs().median() < 0.02  # another voice
    assert (melody - relative_pitch(two_tones(100, 100), 75))[55:70].abs().min() > 0.2  # another melody
    assert not relative_pitch(torch.zeros(16000) + 1e-3 * torch.randn(16000), 50)[5:45].abs().median()


def test_hidden_units_are_hidden_in_training_only():
    torch.manual_seed(0)
    decoder = UnitDecoder(replace(tiny().unit_decoder, unit_dropout=1.0, dropout=0.0, position_dropout=0.0))
    arguments = (torch.ones(2, 4).long(), torch.tensor([4, 4]), torch.arange(20).reshape(2, 10), torch.tensor([10, 10]))
    speaker = torch.randn(2, 12)

    def spread() -> float:
        return float(decoder(*arguments, speaker, text_only=True).logits.detach().std())

    decoder.eval()
    assert spread() == spread()
    decoder.train()
    assert len({spread() for _ in range(4)}) == 4


def test_the_prior_alone_leaves_the_unet_untouched():
    torch.manual_seed(0)
    config: FlowConfig = replace(tiny().flow, mel_mean=-6.0, mel_std=2.5, prior_weight=1.0, speaker_in_encoder=True)
    flow = Flow(config)
    units, n_units, n_mels = torch.randint(64, (2, 10)), torch.tensor([10, 10]), torch.tensor([17, 17])
    mel, speaker = torch.randn(2, 80, 17) * 2.5 - 6, torch.randn(2, 12)
    flow(units, n_units, mel, n_mels, speaker, prior_only=True).backward()
    assert all(p.grad is None for p in flow.decoder.parameters()) and flow.encoder_speaker.weight.grad.abs().max() > 0
    flow(units, n_units, mel, n_mels, speaker).backward()
    assert any(p.grad is not None for p in flow.decoder.parameters())
    flow.eval()
    assert flow.generate(units, n_units, speaker, n_timesteps=1).mel.mean() < -3  # back in the scale of the mel
    plain = Flow(replace(config, mel_mean=0.0, mel_std=1.0)).eval()
    assert plain.generate(units, n_units, speaker, n_timesteps=1).mel.mean() > -3
