"""Judging language models: sums per utterance, controls, minimal pairs with a known answer, text ability."""

import numpy as np
import pytest
import torch
from experiments.taslm_eval import (
    CODES,
    TEXT,
    Pair,
    difference,
    exchanged,
    other_emphasis,
    other_pitch,
    other_rate,
    other_speaker,
    pairs_of,
    perplexity_rise,
    prefers_consistent,
    rise_difference,
    share,
    shuffled,
    unigram_losses,
    utterance_losses,
)
from fake_codes import make_codes

from taste_min.data import FeatureStore
from taste_min.stages import STAGES
from taste_min.train import build_objective


@pytest.fixture(scope="module")
def objective():
    return build_objective(STAGES["taslm_token"], "tiny", 0).eval()


@pytest.fixture(scope="module")
def store(objective, tmp_path_factory) -> FeatureStore:
    return FeatureStore(make_codes(tmp_path_factory.mktemp("codes"), objective.model.quantizer), "train")


def test_sums_per_utterance_do_not_depend_on_the_batch(objective, store):
    table = utterance_losses(objective, store)
    assert table.shape == (len(store), 4)
    assert table[:, 1].tolist() == [row["n_tokens"] for row in store.rows]
    np.testing.assert_allclose(utterance_losses(objective, store, [5, 2]), table[[5, 2]], rtol=1e-4)
    deaf = build_objective(STAGES["taslm_text"], "tiny", 0)
    assert (utterance_losses(deaf, store, [0])[:, CODES] == 0).all()
    units = utterance_losses(build_objective(STAGES["unit_lm"], "tiny", 0), store, [0, 1])
    assert units[:, TEXT][:, 1].tolist() == table[:2, 1].tolist() and (units[:, CODES][:, 1] > 5).all()
    other = utterance_losses(objective, store, shuffle=0)
    assert (other[:, CODES][:, 0] != table[:, CODES][:, 0]).any()
    others = utterance_losses(objective, store, hears_others=True)
    assert (others[:, CODES][:, 0] != table[:, CODES][:, 0]).any() and (others[:, 1::2] == table[:, 1::2]).all()


def test_shuffled_text_is_the_same_text():
    ids = torch.tensor([[9, 1, 2, 3, 4, 5, -1], [9, 6, 7, 8, -1, -1, -1]])
    mixed = shuffled(ids, 0)
    assert (mixed[:, 0] == 9).all() and ((mixed < 0) == (ids < 0)).all()
    assert torch.equal(mixed.sort().values, ids.sort().values) and not torch.equal(mixed, ids)


def test_exchanged_codes_stay_where_codes_are():
    codes = torch.arange(24).reshape(2, 3, 4)
    codes[0, 0], codes[1, 2] = -1, -1
    other = exchanged(codes)
    assert torch.equal(other[:, 1], codes[:, 1].flip(0)) and torch.equal(other[:, [0, 2]], codes[:, [0, 2]])


def test_unigrams_are_the_best_guess_without_context(objective, store):
    quantizer = objective.model.quantizer
    sums = unigram_losses(store, store, quantizer, vectors=False)
    codes = torch.cat([store.tensor(i, "codes").long() for i in range(len(store))])
    share_of = torch.stack([torch.bincount(c, minlength=24) for c in codes.T]) + 1.0
    log = (share_of / share_of.sum(1, keepdim=True)).log()
    want = -torch.stack([log[r, codes[:, r]] for r in range(4)]).mean(0).sum()
    assert sums[:, 0].sum() == pytest.approx(float(want), rel=1e-5) and sums[:, 1].sum() == len(codes)
    vectors = quantizer.embed_codes(codes)
    errors = unigram_losses(store, store, quantizer, vectors=True)
    assert errors[:, 0].sum() / len(codes) == pytest.approx(float(vectors.var(0, correction=0).mean()), rel=1e-4)


def test_differences_have_the_sign_of_the_loss():
    rng = np.random.default_rng(0)
    good = np.stack([rng.uniform(1, 2, 30), np.ones(30)], axis=1)
    worse = good + [[0.5, 0]]
    found = difference(worse, good, [f"t{i // 2}" for i in range(30)])
    assert found.value == pytest.approx(0.5) and found.low > 0
    assert difference(good, worse, [f"t{i}" for i in range(30)]).high < 0


class Rows:
    """Renderings of two sentences."""

    rows = [
        {"text": "a b c d", "speaker": s, "style": style, "seconds": seconds}
        for s, style, seconds in (("x", "plain", 2.0), ("y", "plain", 2.1), ("x", "slow", 2.9), ("x", "random", 9.0))
    ] + [{"text": "e f", "speaker": "x", "style": "plain", "seconds": 2.0}]
    rows += [{"text": "g h", "speaker": "x", "style": s, "seconds": 2.0} for s in ("low", "plain", "high", "emphatic")]


def test_pairs_are_renderings_of_one_sentence_both_ways():
    assert pairs_of(Rows, other_speaker) == [Pair(0, 1, 2), Pair(1, 0, 2)]
    assert pairs_of(Rows, other_rate) == [Pair(0, 2, 2), Pair(2, 0, 2)]
    assert pairs_of(Rows, other_pitch) == [Pair(i, j, 1) for i in (5, 6, 7) for j in (5, 6, 7) if i != j]
    assert pairs_of(Rows, other_emphasis) == [Pair(6, 8, 1), Pair(8, 6, 1)]


def test_a_model_that_learnt_one_voice_prefers_it_and_a_deaf_one_does_not_care(objective, store):
    pairs = [Pair(i, j, 1) for i in (0, 5, 10) for j in (15, 20) if len(store.tensor(i, "codes")) > 1]
    pairs = [p for p in pairs if store.rows[p.kept]["n_tokens"] == store.rows[p.other]["n_tokens"]]
    pairs = [p for p in pairs if len(store.tensor(p.kept, "codes")) == len(store.tensor(p.other, "codes"))]
    assert pairs
    learnt = build_objective(STAGES["taslm_token"], "tiny", 0)
    batch = learnt.load(store, sorted({p.kept for p in pairs}))
    optimizer = torch.optim.AdamW([p for p in learnt.parameters() if p.requires_grad], lr=2e-2)
    for _ in range(40):
        optimizer.zero_grad()
        learnt.model(batch).loss.backward()
        optimizer.step()
    assert prefers_consistent(learnt, store, pairs).tolist() == [1.0] * len(pairs)
    deaf = build_objective(STAGES["taslm_text"], "tiny", 0)
    assert prefers_consistent(deaf, store, pairs).tolist() == [0.5] * len(pairs)


def test_shares_and_rises():
    found = share(np.array([1.0] * 60 + [0.0] * 20), [f"t{i // 2}" for i in range(80)])
    assert found.value == 0.75 and found.low > 0.5
    before = np.stack([np.linspace(20, 30, 12), np.full(12, 10.0)], axis=1)
    after, more = before * [[1.01, 1]], before * [[1.03, 1]]
    assert perplexity_rise(after, before).value == pytest.approx(np.exp(0.01 * 2.5) - 1)
    assert perplexity_rise(before, before).value == 0
    worse = rise_difference(more, after, before)
    assert worse.value > 0 and worse.low > 0
