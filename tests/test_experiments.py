"""The tools that measure edits, attention and robustness: their parts, and that recorded numbers derive from rows."""

import json
from pathlib import Path

import attention
import edit_pairs
import numpy as np
import pytest
import robustness
import torch

from taste_min.corpus import Utterance
from taste_min.text import Word
from taste_min.tokens import TasteTokens

RESULTS = edit_pairs.RESULTS


def load(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def tokens(first: int, n_words: int = 8) -> TasteTokens:
    words = [Word(f"w{i}", i / 2, i / 2 + 0.4) for i in range(n_words)]
    codes = first + torch.arange(n_words)[:, None].expand(n_words, 4).contiguous()
    text = " ".join(word.text for word in words)
    return TasteTokens(text, words, codes, codes.float(), n_words, n_words / 2, torch.ones(4) / 2)


def test_words_to_swap_differ_clearly_and_have_no_swapped_neighbour():
    host, rng = np.full(12, 0.3), np.random.default_rng(0)
    donor = host * np.array([1.3, 1.3, 1.0, 0.7, 0.7, 1.05, 1.4, 1.4, 1.4, 1.0, 1.0, 2.0])
    for _ in range(20):
        chosen = edit_pairs.choose_words(host, donor, rng)
        assert 2 <= len(chosen) <= edit_pairs.MOST_WORDS and chosen == sorted(chosen)
        assert set(chosen) <= {0, 1, 3, 4, 6, 7, 8} and np.all(np.diff(chosen) > 1)
    assert edit_pairs.choose_words(host, host, rng) == []


def test_permuted_codes_come_from_words_that_are_not_swapped():
    host, donor, words = tokens(0), tokens(100), [1, 4, 6]
    permuted = edit_pairs.permute(host, donor, words, np.random.default_rng(0))
    others = [i for i in range(8) if i not in words]
    assert torch.equal(permuted.codes[others], host.codes[others])
    taken = permuted.codes[words, 0] - 100
    assert set(taken.tolist()) <= set(others) and len(set(taken.tolist())) == 3
    assert torch.equal(permuted.embeddings, permuted.codes.float())


def test_pairs_are_of_one_voice_and_text_and_held_out():
    rows = [
        Utterance(f"{i:010x}-{style}", Path("x"), f"text {i}", "joe", 1.0, style, split, 1.0, [], None)
        for i in range(10)
        for style in ("plain", "slow", "fast", "random")
        for split in (("test", "train")[i == 3],)
    ]
    pairs = edit_pairs.find_pairs(rows)
    assert len(pairs) == 9 and [kind for kind, *_ in pairs].count("tempo") == 1
    for kind, host, donor in pairs:
        assert host.text == donor.text != "text 3"
        assert {host.style, donor.style} == ({"slow", "fast"} if kind == "tempo" else {"plain", "random"})


@pytest.mark.parametrize("decibel", [20, 5])
def test_noise_has_the_asked_level(decibel):
    wav = torch.sin(torch.arange(16000) / 9)
    noise = robustness.add_noise(wav, decibel, torch.Generator().manual_seed(0)) - wav
    assert 10 * torch.log10(wav.square().mean() / noise.square().mean()).item() == pytest.approx(decibel, abs=1e-3)
    assert torch.equal(robustness.add_noise(wav, None, torch.Generator()), wav)


def test_wrong_texts_have_as_many_wrong_words_as_they_say():
    texts = ["one two three four five", "six seven eight nine ten eleven", "twelve thirteen, fourteen fifteen sixteen."]
    wrong, counts = robustness.wrong_texts(texts, 0.25, np.random.default_rng(0))
    assert sum(counts) == 4
    for text, found, count in zip(texts, wrong, counts, strict=True):
        assert len(found.split()) == len(text.split())
        assert sum(a != b for a, b in zip(text.split(), found.split(), strict=True)) == count


def test_the_head_with_most_attention_inside_is_picked():
    inside = np.zeros((2, 3, 4))
    inside[1, 2] = 0.9
    found = [{"trained": attention.Found(inside, inside)}, {"trained": attention.Found(inside / 2, inside)}]
    assert attention.pick_head(found, "trained") == (1, 2)


# -- what was recorded


def test_edits_derive_from_their_rows():
    summary = json.loads(edit_pairs.SUMMARY.read_text(encoding="utf-8"))
    for name in edit_pairs.CONDITIONS:
        recorded = load(f"editing{name}")
        derived = edit_pairs.summarise(recorded["utterances"])
        assert derived == {key: recorded[key] for key in derived} == summary[f"editing{name}"]
        assert recorded["run"] == summary["run"]
        assert len(recorded["utterances"]) == recorded["run"]["n_measured"]


def test_attention_derives_from_its_rows():
    recorded = load("attention")
    derived = attention.summarise(recorded["utterances"])
    assert derived == {key: recorded[key] for key in derived}


def test_robustness_derives_from_its_rows():
    recorded = load("robustness")
    derived = robustness.summarise(recorded["utterances"])
    assert derived == {key: recorded[key] for key in derived}
