"""Keys of other layers, on attention whose answer is known."""

import numpy as np
import pytest
import torch
from experiments.layer_sweep import (
    attention,
    fit_keys,
    measure_keys,
    queries,
    tabulate_keys,
    tabulate_values,
    word_sums,
)
from fake_corpus import make_features

from taste_min.aggregator import Aggregator
from taste_min.config import tiny
from taste_min.data import FeatureStore
from taste_min.errors import TasteError

SPANS = np.array([[0.0, 0.2], [0.2, 0.4], [0.4, 0.6]])


def peaked(frames, n=30):
    """Attention of every token to one frame."""
    return np.eye(n)[frames]


def test_attention_in_the_middle_of_the_words_has_no_error_and_moves_forward():
    right = word_sums(peaked([0, 4, 14, 24]), np.array([0, 0, 1, 2]), SPANS)  # the last token of a word counts
    assert right[:2] == [2, 2] and right[3] == 3 and right[2] < 3 * 15
    assert word_sums(peaked([0, 24, 14, 4]), np.array([0, 0, 1, 2]), SPANS)[0] == 0
    assert word_sums(peaked([0, 14, 24, 29]), np.array([0, 0, 1, 2]), SPANS)[2] > 400


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(0)
    return Aggregator(tiny().aggregator).eval()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return FeatureStore(make_features(tmp_path_factory.mktemp("features"), splits=("train",)), "train")


def test_queries_and_keys_give_the_attention_of_the_decoder(decoder, store):
    last, tokens, words = (store.tensor(0, name)[None] for name in ("last", "token_ids", "word_ids"))
    length = torch.tensor([tokens.shape[1]])
    with torch.no_grad():
        maps = decoder(tokens.long(), words.long(), length, last, last, need_attention=True).cross_attention
        keys = decoder.layers[-1].encoder_attn.k_proj(last[0])
    found = attention(queries(decoder, store, 0), keys)
    assert np.allclose(found, maps[0, -1].mean(dim=0).numpy(), atol=1e-5)


def test_a_layer_that_is_a_linear_image_of_the_last_gives_its_keys(decoder, store):
    mix = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    original = store.tensor
    store.tensor = lambda i, name: original(i, "last") @ mix if name == "hidden_2" else original(i, name)
    try:
        probe = fit_keys(decoder, store)["hidden_2"]
        with torch.no_grad():
            keys = decoder.layers[-1].encoder_attn.k_proj(store.tensor(3, "last")).numpy()
        assert np.square(probe(store.tensor(3, "hidden_2").numpy()) - keys).mean() < 0.1 * keys.var()
    finally:
        store.tensor = original
    blind = fit_keys(decoder, store)["hidden_2"]  # random numbers know nothing of the last layer
    assert np.square(blind(store.tensor(3, "hidden_2").numpy()) - keys).mean() > 0.5 * keys.var()


def test_every_layer_and_the_control_are_measured_on_the_same_words(decoder, store):
    spans = {row["id"]: np.cumsum(np.full(((row["n_tokens"] + 1) // 2, 2), 0.1), axis=0) for row in store.rows[:9]}
    tables = measure_keys(decoder, fit_keys(decoder, store), store, spans)
    assert tables.keys() == {"last", "shuffled", "hidden_2"}
    assert len({table[:, 3].sum() for table in tables.values()}) == 1


def test_the_better_layer_wins_and_the_mutant_loses():
    rng = np.random.default_rng(0)
    good = np.stack([rng.integers(8, 10, 20), np.full(20, 10), rng.normal(800, 50, 20), np.full(20, 10)], axis=1)
    bad = np.stack([rng.integers(4, 7, 20), np.full(20, 10), rng.normal(2000, 50, 20), np.full(20, 10)], axis=1)
    found = tabulate_keys({"last": good, "hidden_2": bad}, "hidden_2")
    assert found["last_minus_shallow_keys_forward_steps"]["low"] > 0
    assert found["shallow_minus_last_keys_centre_error_ms"]["low"] > 100
    assert found["last_minus_shallow_keys_centre_error_ms"]["high"] < 0
    swapped = tabulate_keys({"last": bad, "hidden_2": good}, "hidden_2")
    assert swapped["last_minus_shallow_keys_forward_steps"]["high"] < 0


def test_the_best_layer_is_the_one_with_the_smallest_loss():
    def record(loss):
        return {"test": {"with_past": [[10, 10 * loss, 1, 5, 1, 1, 1, 1, 1, 1]]}}

    losses = {"attended": [2.0, 1.7, 1.8, 1.9, 2.0], "encoder": [1.5, 1.4, 1.2, 1.1, 1.3]}
    runs = {
        f"{s}_{i}": {0: record(v), 1: record(v + 0.1)} for s, values in losses.items() for i, v in enumerate(values)
    }
    found = tabulate_values(runs)
    assert found["best_value_layer_share_of_depth"]["value"] == 0.25
    assert found["best_encoder_layer_share_of_depth"]["value"] == 0.75
    del runs["attended_3"]
    with pytest.raises(TasteError, match="lacks attended_3"):
        tabulate_values(runs)
