"""Probes from words, on data whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from experiments.word_probes import Words, classify, explained, probe_all, read_words, regress
from fake_corpus import make_features

from taste_min.aggregator import Aggregator
from taste_min.config import tiny
from taste_min.data import FeatureStore
from taste_min.errors import TasteError
from taste_min.quantizer import ResidualVQ


def made_up(n_sentences, seed, noise=0.3):
    """z: how long and high a word is, and who says it; codes: the same with noise; text: which word, each its own."""
    rng = np.random.default_rng(seed)
    n = n_sentences * 8
    word = rng.integers(6, size=n)
    length, pitch = rng.normal(size=n) + word, rng.normal(size=n)
    speaker = rng.integers(2, size=n)
    z = np.stack([length, pitch, speaker, *rng.normal(size=(5, n))], axis=1) @ MIX
    prosody = np.stack([length, np.where(rng.random(n) < 0.1, np.nan, pitch), rng.normal(size=n), pitch], axis=1)
    return Words(
        z=z,
        codes=z + noise * rng.normal(size=z.shape),
        text=np.eye(8)[word],
        prosody=prosody,
        word=np.array([f"w{i}" for i in word]),
        speaker=np.array(["a", "b"])[speaker],
        sentence=np.array([f"{seed}-{i // 8}" for i in range(n)]),
    )


MIX = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]


@pytest.fixture(scope="module")
def words():
    return made_up(60, 1), made_up(10, 2), made_up(25, 3)


def test_a_probe_reads_what_is_there_and_nothing_from_shuffled_codes(words):
    found = probe_all(*words)
    assert found["duration_r2_z"]["value"] > 0.99
    assert 0.9 < found["duration_r2_codes"]["value"] < found["duration_r2_z"]["value"]
    assert found["duration_r2_text"]["value"] == pytest.approx(35 / 12 / (35 / 12 + 1), abs=0.06)
    assert found["f0_r2_text"]["value"] < 0.05 and found["f0_r2_codes"]["value"] > 0.85
    assert found["energy_r2_z"]["value"] < 0.05  # it is nowhere
    for target in ("duration", "f0", "energy"):
        assert found[f"{target}_r2_shuffled"]["value"] < 0.05
    assert found["duration_r2_codes_minus_text"]["low"] > 0 > found["duration_r2_z_minus_codes"]["low"] - 0.5
    assert found["speaker_codes"]["value"] > 0.85 and found["speaker_text"]["high"] < 0.65
    assert found["word_identity_text"]["value"] == 1 and found["word_identity_shuffled"]["value"] < 0.4


def test_explained_variance_is_that_of_the_textbook():
    rng = np.random.default_rng(0)
    y = rng.normal(3, 2, 50)
    guess = y + rng.normal(size=50)
    sums = np.stack([np.ones(50), y, y * y, (y - guess) ** 2], axis=1).sum(axis=0)
    assert explained(sums) == pytest.approx(1 - ((y - guess) ** 2).sum() / ((y - y.mean()) ** 2).sum())


def test_the_unit_of_the_interval_is_the_sentence(words):
    outcome = regress("duration", "codes", *words)
    assert len(outcome.table) == len(set(words[2].sentence))
    assert outcome.table[:, 0].sum() == len(words[2].word)
    assert regress("f0", "codes", *words).table[:, 0].sum() == (~np.isnan(words[2].prosody[:, 1])).sum()


def test_rare_classes_do_not_take_part_and_one_class_is_refused(words):
    train, dev, test = words
    assert classify("word", "text", *words).table[:, 1].sum() == len(test.word)
    with pytest.raises(TasteError, match="too few classes"):
        classify("word", "text", *words, at_least=1000)
    one_sentence = replace(train, sentence=np.full(len(train.word), "x"))
    with pytest.raises(TasteError, match="too few classes"):
        classify("word", "text", one_sentence, dev, test)


def test_words_of_a_corpus_come_with_their_codes(tmp_path):
    torch.manual_seed(0)
    config = tiny()
    quantizer = ResidualVQ(replace(config.rvq, quantizer_dropout=False))  # so that every codebook is started
    quantizer(torch.randn(1, 100, 32))

    class Model:
        aggregator, trim_keys = Aggregator(config.aggregator).eval(), True

        def part(self, name):
            return quantizer.eval()

    model = Model()
    model.config = config
    store = FeatureStore(make_features(tmp_path, splits=("test",)), "test")
    for row in store.rows:  # two words, as the text has; the features were made for more
        row["text"] = " ".join(["big"] * ((row["n_tokens"] + 1) // 2))
    words = read_words(model, store)
    n = sum((row["n_tokens"] + 1) // 2 for row in store.rows)
    assert len(words.word) == len(words.speaker) == len(words.sentence) == n
    assert words.z.shape == words.codes.shape == words.text.shape == (n, 32)
    assert set(words.word) == {"big"} and not np.allclose(words.z, words.codes)
    order = sorted(range(len(store.rows)), key=lambda i: store.rows[i]["n_frames"])
    assert np.allclose(words.prosody[: (store.rows[order[0]]["n_tokens"] + 1) // 2], store.tensor(order[0], "prosody"))
