"""The tools that measure edits, attention and robustness: their parts, and that recorded numbers derive from rows."""

import json
from pathlib import Path

import attention
import edit_pairs
import numpy as np
import pytest
import robustness
import torch
from bars import weights
from fake_taste import TEXT, tiny_taste
from nearly import nearly

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


def test_mutants_take_the_recorded_pairs_that_are_there():
    ids = [row["id"].rsplit("_", 1) for row in load("editing")["utterances"]][:3]
    names = {f"{host.rsplit('-', 1)[0]}-{style}" for host, style in ids} | {host for host, _ in ids}
    missing = ids[1][0]
    rows = [Utterance(n, Path("x"), n[:10], "joe", 1.0, n, "test", 1.0, [], None) for n in sorted(names - {missing})]
    pairs = edit_pairs.recorded_pairs(rows)
    assert [(host.id, donor.id.rsplit("-", 1)[1]) for _, host, donor in pairs] == [tuple(ids[0]), tuple(ids[2])]


def test_mutants_are_broken_as_they_are_called():
    wav = torch.randn(16000, generator=torch.Generator().manual_seed(0)) / 10
    sound = tiny_taste().look_inside(wav, TEXT).encoder
    exchanged = edit_pairs.break_model(tiny_taste(), "_exchanged").look_inside(wav, TEXT).encoder
    assert torch.equal(exchanged.last, sound.shallow) and torch.equal(exchanged.shallow, sound.last)


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


def edit_row(text: str, kind: str, swapped: list[float], others: list[float]) -> dict:
    values = {"duration_transfer_swapped": swapped, "duration_transfer_unswapped": others}
    return {"text": text, "kind": kind} | values


def test_the_medians_of_edits_are_those_of_emphasis_pairs():
    rows = [edit_row(f"t{i}", "emphasis", [0.9, 0.7], [0.1, -0.1]) for i in range(4)]
    summary = edit_pairs.summarise([*rows, edit_row("u", "tempo", [5.0], [4.0])])
    assert summary["duration_transfer_swapped"]["value"] == pytest.approx(0.8)
    assert summary["duration_transfer_swapped"]["words"] == 8
    assert summary["tempo"]["duration_transfer_swapped"]["value"] == 5.0


def noise_row(text: str, condition: str, errors: int, within: int, wrong: int = 0) -> dict:
    row = {"id": text, "text": text, "condition": condition, "wrong_words": wrong, "word_errors": errors}
    row |= {"reference_words": 10, "timed_words": 10, "within_50ms": within}
    return row | {"word_log_f0": [[1.0, 2.0, 3.0], [1.1, 1.9, 3.0 + errors]]}


def test_robustness_counts_what_each_wrong_word_costs():
    cost = {
        "clean": (1, 9),
        "20db": (1, 9),
        "10db": (2, 8),
        "5db": (3, 7),
        "shuffled": (2, 4),
        "clean_text_only": (2, 5),
    }
    rows = [noise_row(text, name, *both) for text in "ab" for name, both in cost.items()]
    rows += [noise_row(text, name, 1 + n, 8, n) for text in "ab" for n, name in enumerate(robustness.WRONG, 1)]
    found = robustness.summarise(rows)
    assert found["wer_rise_per_wrong_word"] == pytest.approx(1.0)
    assert found["wer_5db_minus_clean"]["value"] == pytest.approx(0.2)
    assert found["duration_consistency_drop_at_5_percent"]["value"] == pytest.approx(0.1)
    assert found["shuffled_minus_text_only_duration_consistency_50ms"]["value"] == pytest.approx(-0.1)
    assert set(found["conditions"]) == {row["condition"] for row in rows}


def test_attention_is_compared_word_by_word_and_the_last_word_has_no_next():
    rows = []
    for i in range(4):
        row = {"text": f"t{i}"}
        for suffix in ("", "_averaged"):
            for number, name in enumerate(attention.CONDITIONS):
                row |= {
                    f"{name}_inside{suffix}": [0.9 - number / 5] * 3,
                    f"{name}_error{suffix}": [50.0 + 100 * number] * 3,
                }
            row[f"next_word_inside{suffix}"] = [0.05, 0.05, None]
        rows.append(row)
    found = attention.summarise(rows)
    assert found["random_minus_trained_centre_error_ms"]["value"] == pytest.approx(200)
    assert found["shuffled_minus_trained_centre_error_ms"]["value"] == pytest.approx(300)
    assert found["trained_minus_untrained_mass_inside"]["value"] == pytest.approx(0.2)
    assert found["next_word_minus_untrained_mass_inside"]["value"] == pytest.approx(-0.65)
    assert found["trained_mass_inside_averaged"]["value"] == pytest.approx(0.9)


# -- what was recorded


def test_edits_derive_from_their_rows():
    summary = json.loads(edit_pairs.SUMMARY.read_text(encoding="utf-8"))
    for name in (*edit_pairs.CONDITIONS, *edit_pairs.MUTANTS):
        recorded = load(f"editing{name}")
        derived = edit_pairs.summarise(recorded["utterances"])
        assert derived == {key: recorded[key] for key in derived} == summary[f"editing{name}"]
        assert recorded["run"] == summary["run_of_mutants" if name in edit_pairs.MUTANTS else "run"]
        assert recorded["run"]["weights_manifest_sha256"] == weights()
        assert len(recorded["utterances"]) == recorded["run"]["n_measured"]


def test_attention_derives_from_its_rows():
    recorded = load("attention")
    derived = attention.summarise(recorded["utterances"])
    assert derived == {key: recorded[key] for key in derived}


def test_robustness_derives_from_its_rows():
    if not robustness.OUT.is_file():
        pytest.skip("not measured yet, as the page of claims says; run tools/robustness.py")
    recorded = load("robustness")
    derived = json.loads(json.dumps(robustness.summarise(recorded["utterances"])))
    assert derived == nearly({key: recorded[key] for key in derived})
