"""What the training adds: prosody, centring, the pointer, shifted voices. Each check has a broken variant."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from fake_corpus import make_features

from taste_min.config import FlowConfig, tiny
from taste_min.data import Batch, FeatureStore
from taste_min.features import shift_of, shifted, with_takes, word_prosody
from taste_min.flow import Flow
from taste_min.manifest import Utterance
from taste_min.objectives import PROSODY, TokenizerObjective, unit_scores
from taste_min.phones import read_aloud
from taste_min.unit_decoder import UnitDecoder, UnitPrediction
from taste_min.units import relative_pitch

WORDS = ("cat", "dog", "stop", "well")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return FeatureStore(make_features(tmp_path_factory.mktemp("features")), "train")


def reading(audio: bool = False) -> TokenizerObjective:
    """An objective whose decoder reads sounds; every token is one of WORDS."""
    torch.manual_seed(0)
    config = replace(tiny(), unit_decoder=replace(tiny().unit_decoder, pronounced=True))
    objective = TokenizerObjective(config, audio=audio, quantize=False)
    spelled = SimpleNamespace(decode=lambda ids: "".join(f" {WORDS[i % 4]}" for i in ids))
    objective.unit_decoder.reader.read_vocabulary(spelled)
    return objective


def batch_of(texts: list[list[int]], pointers: list[list[int]]) -> Batch:
    """One-token words, and as many units as the pointer has values."""
    texts, pointers = (
        torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True) for rows in (texts, pointers)
    )
    return Batch(
        token_ids=texts,
        word_ids=torch.arange(texts.shape[1]).expand_as(texts),
        token_lengths=torch.tensor([3, 1]),
        units=torch.randint(64, pointers.shape),
        unit_lengths=torch.tensor([12, 5]),
        pointer=pointers,
        speaker_embedding=torch.randn(2, 12),
    )


TWO = ([[2, 1, 0], [0]], [list(range(12)), list(range(5))])  # "stop dog cat", 14 sounds, and "cat", 5


def test_the_cost_of_an_utterance_covers_all_its_positions():
    text, batch = "stop dog cat", batch_of(*TWO)
    rows = [{"text": text, "n_tokens": 3, "n_sounds": len(read_aloud(text.split())[0]), "n_units": 12}]
    store = SimpleNamespace(rows=rows)
    for objective, length in ((reading(), 3 + 14 + 12), (TokenizerObjective(tiny(), False, False), 3 + 3 + 12)):
        assert objective.lengths(store) == [length]
        assert objective.predict(batch, None).labels.shape[1] == length


def test_scores_count_units_and_steps_apart():
    torch.manual_seed(0)
    labels = torch.tensor([[-1, 1, 2, 5, -1], [-1, -1, 3, 4, 7]])
    steps = torch.tensor([[-1, 0, 1, -1, -1], [-1, -1, 3, 0, -1]])
    prediction = UnitPrediction(torch.randn(2, 5, 8), labels, torch.zeros(()), torch.randn(2, 5, 4), steps)
    sums = unit_scores(prediction)
    for name, logits, truth, n in (
        ("cross_entropy", prediction.logits, labels, 6),
        ("step_cross_entropy", prediction.step_logits, steps, 4),
    ):
        expected = F.cross_entropy(logits[truth >= 0], truth[truth >= 0], reduction="sum")
        assert sums[name][1] == n
        torch.testing.assert_close(sums[name][0], expected)
    better = (prediction.logits > prediction.logits.gather(2, labels.clamp(min=0)[..., None])).sum(dim=2)[labels >= 0]
    assert (sums["top1"][0], sums["top5"][0]) == ((better < 1).sum(), (better < 5).sum())
    assert "step_cross_entropy" not in unit_scores(replace(prediction, step_logits=None, step_labels=None))


def test_with_another_text_the_pointer_stays_inside_it():
    objective, batch = reading(), batch_of(*TWO)
    other = objective.with_other_text(batch)
    assert other.token_ids.tolist() == [[0, 0, 0], [2, 1, 0]] and other.token_lengths.tolist() == [1, 3]
    last = objective.unit_decoder.reader.sounds(other.token_ids, other.token_lengths).lengths - 1
    assert last.tolist() == [4, 13] and (batch.pointer.amax(dim=1) > last).any()  # as it is, it would leave the text
    assert other.pointer[0].tolist() == [0, 1, 2, 3, 4] + [4] * 7 and torch.equal(other.pointer[1], batch.pointer[1])
    assert objective.predict(other, None).loss.isfinite()
    plain = TokenizerObjective(tiny(), audio=False, quantize=False)
    assert plain.with_other_text(replace(batch, pointer=None)).pointer is None


def test_a_decoder_that_reads_sounds_is_scored_by_its_steps_too(store):
    objective, batch = reading(audio=True).eval(), store.text_and_units([0, 3, 4], "hidden_2")
    with torch.no_grad():
        loss, numbers = objective.loss(batch, "model", 0)
        sums = objective.evaluate(batch, torch.Generator().manual_seed(0))
    total = numbers["cross_entropy"] + numbers["step_cross_entropy"] + numbers["prosody"]
    assert float(loss) == pytest.approx(float(total), abs=1e-4)
    assert {f"{name}_error" for name in PROSODY} <= set(sums)
    assert {"other_text_cross_entropy", "shuffled_step_cross_entropy"} <= set(sums)


def test_units_are_not_learnt_before_their_step(store):
    torch.manual_seed(0)
    objective = TokenizerObjective(tiny(), audio=True, quantize=False, units_from=2)
    batch = store.text_and_units([0, 3], "hidden_2")
    for step in (1, 2):
        loss, numbers = objective.loss(batch, "model", step)
        objective.zero_grad()
        loss.backward()
        assert ("cross_entropy" in numbers) is (step == 2) and "prosody" in numbers
        assert (objective.unit_decoder.llm_decoder.weight.grad is not None) is (step == 2)
        assert objective.aggregator.layers[0].encoder_attn.v_proj.weight.grad.abs().max() > 0


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
    assert float(table[0, 3].exp()) == pytest.approx(0.7) and table[1, 3].isnan()  # nobody knows what follows
    joined = word_prosody(mel, f0, [("a", 0.0, 0.5), ("b", 0.52, 1.6)])
    assert float(joined[0, 3].exp()) == pytest.approx(0.05)  # too short for a pause
    assert word_prosody(mel, torch.zeros(172), [("a", 0.0, 0.5)])[0, 1].isnan()


def test_prosody_error_skips_what_is_unknown(store):
    objective = TokenizerObjective(tiny(), audio=True, quantize=False)
    batch = store.text_and_units([0, 3], "hidden_2")
    taste = torch.randn(*batch.token_ids.shape, 32)
    error, known = objective.prosody_error(batch, taste)
    assert known.any() and error.isfinite().all() and not error[~known].any()
    nothing = replace(batch, prosody=torch.full_like(batch.prosody, torch.nan))
    assert not objective.prosody_error(nothing, taste)[1].any()


def test_later_takes_are_other_voices():
    rows = [
        Utterance(f"u{i}", Path("x"), "a", "v", split, 1.0, "", [])
        for i, split in enumerate(["train"] * 40 + ["dev"] * 9)
    ]
    assert with_takes(rows, 1) == rows
    twice = with_takes(rows, 2)
    assert twice[:49] == rows and len(twice) == 89 and len({u.id for u in twice}) == 89
    again = [shift_of(u) for u in twice[49:]]
    assert all(0.85 <= shift <= 1.2 for shift in again) and len(set(again)) == 40
    first = [shift_of(u) for u in rows]
    assert first[40:] == [1.0] * 9 and 8 < first[:40].count(1.0) < 32


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
