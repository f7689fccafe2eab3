"""What the training adds to the losses: alignment, prosody, centring. Each check has a broken variant that fails it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from fake_corpus import make_features

from taste_min.config import FlowConfig, tiny
from taste_min.data import Batch, FeatureStore
from taste_min.features import shifted, word_prosody
from taste_min.flow import Flow
from taste_min.objectives import GUIDED_HEAD, TokenizerObjective
from taste_min.spelling import spell
from taste_min.unit_decoder import UnitDecoder
from taste_min.units import relative_pitch


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return FeatureStore(make_features(tmp_path_factory.mktemp("features")), "train")


def spelled(max_letters: int) -> TokenizerObjective:
    """Reads tokens of 3 to 6 letters; with 0 whole tokens."""
    config = replace(tiny(), unit_decoder=replace(tiny().unit_decoder, max_letters=max_letters))
    objective = TokenizerObjective(config, audio=False, quantize=False)
    if max_letters:
        table = objective.unit_decoder.spelling.table
        table[torch.arange(6) >= 3 + torch.arange(len(table))[:, None] % 4] = 0
    return objective


def words_of(objective: TokenizerObjective, batch: Batch, b: int) -> list[int]:
    """The word of every position that the decoder reads for one text."""
    words = batch.word_ids[b, : batch.token_lengths[b]].tolist()
    if not objective.unit_decoder.config.max_letters:
        return words
    table = objective.unit_decoder.spelling.table
    counts = (table[batch.token_ids[b, : len(words)]] > 0).sum(dim=1)
    return torch.tensor(words).repeat_interleave(counts).tolist()


def looking(objective: TokenizerObjective, batch: Batch, ahead: int = 0, mirrored: bool = False) -> float:
    """Alignment loss of a model that looks at the position being spoken, at the same place of the word `ahead` words
    further, or at the mirrored place of the same word."""
    words = [words_of(objective, batch, b) for b in range(len(batch.token_ids))]
    size = max(len(w) + 3 + int(n) for w, n in zip(words, batch.unit_lengths, strict=True))
    attention = torch.zeros(len(words), 4, size, size)
    for b in range(len(words)):
        for u in range(int(batch.unit_lengths[b])):
            word = min(int(batch.unit_words[b, u]) + ahead, max(words[b]))
            places = [i for i, w in enumerate(words[b]) if w == word]
            place = min(int(batch.unit_progress[b, u] * len(places)), len(places) - 1)
            place = len(places) - 1 - place if mirrored else place
            attention[b, GUIDED_HEAD, len(words[b]) + 2 + u, 2 + places[place]] = 1
    for layer in objective.guided_layers():
        layer.attention_map = attention
    return float(objective.alignment_loss(batch))


@pytest.mark.parametrize("max_letters", [0, 6])
def test_alignment_loss_is_small_on_what_is_spoken_and_only_there(store, max_letters):
    objective, batch = spelled(max_letters), store.text_and_units([0, 3, 4], None)
    assert looking(objective, batch) < 0.1 < 1 < looking(objective, batch, ahead=1)


def test_alignment_loss_prefers_the_spoken_letter_to_another_one_of_the_word(store):
    objective, batch = spelled(6), store.text_and_units([0, 3, 4], None)
    assert looking(objective, batch) < 0.1 < 1 < looking(objective, batch, mirrored=True)


def test_places_of_letters_and_tokens():
    batch = Batch(
        token_ids=torch.tensor([[1, 2, 3], [3, 0, 0]]),
        word_ids=torch.tensor([[0, 0, 1], [0, 0, 0]]),
        token_lengths=torch.tensor([3, 1]),
    )
    words, place, count, lengths = spelled(0).text_places(batch)
    assert lengths.tolist() == [3, 1] and words.tolist() == [[0, 0, 1], [0, -1, -1]]
    assert place[0].tolist() == [0, 1, 0] and count[0].tolist() == [2, 2, 1]
    assert (place[1, 0], count[1, 0]) == (0, 1)  # the padding, also of word 0 in `word_ids`, is not counted
    objective = spelled(6)
    objective.unit_decoder.spelling.table[:4] = torch.tensor(
        [[1, 0, 0, 0, 0, 0], [2, 3, 0, 0, 0, 0], [4, 0, 0, 0, 0, 0], [5, 6, 7, 0, 0, 0]]
    )
    words, place, count, lengths = objective.text_places(batch)
    assert lengths.tolist() == [6, 3] and words.tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 0, -1, -1, -1]]
    assert place[0].tolist() == [0, 1, 2, 0, 1, 2] and count[0].tolist() == [3] * 6
    assert place[1, :3].tolist() == [0, 1, 2] and count[1, :3].tolist() == [3] * 3


def test_the_cost_of_an_utterance_covers_all_its_positions(store):
    words = ["some", "plain", "words"]
    store = SimpleNamespace(rows=[{"text": " ".join(words), "n_tokens": len(words), "n_units": 50}])
    assert spelled(0).lengths(store) == [3 + len(words) + 50]
    assert spelled(6).lengths(store) == [3 + sum(len(spell(" " + word)) for word in words) + 50]


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
