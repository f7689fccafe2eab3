"""The recorded comparison of the evaluator with values that others measured, and a small part of it measured again."""

import json

import numpy as np
import pytest
import validate_evaluator as tool

from taste_min import metrics
from taste_min.audio import SAMPLE_RATE, read_audio
from taste_min.transfer import coefficients, read_swapped, split


@pytest.fixture(scope="module")
def recorded() -> dict:
    assert tool.OUT.is_file(), "run `python tools/validate_evaluator.py` and commit what it writes"
    return json.loads(tool.OUT.read_text())


@pytest.fixture(scope="module")
def cells(recorded) -> dict[str, dict]:
    return {f"{cell['system']}/{cell['metric']}": cell for cell in recorded["cells"]}


def test_every_value_of_the_table_is_compared(recorded, cells):
    expected = {f"orig/{column}": value for column, value in tool.TABLE["original"].items()}
    for system, row in tool.TABLE["systems"].items():
        expected |= {f"{system}/{column}": value for column, value in row.items()}
    expected |= {f"edits/{name}": value for name, value in tool.TABLE["edits"]["reference"].items()}
    assert {name: cell["reference"] for name, cell in cells.items()} == expected
    assert recorded["n_cells"] == len(expected) == 39


def test_the_comparison_derives_from_the_recorded_rows(recorded):
    assert tool.compare(recorded["utterances"], recorded["edits"]) == recorded["cells"]


def test_the_evaluator_reproduces_the_table(recorded, cells):
    """Every cell is within tolerance, but for those that demo_table.json names with a reason."""
    outside = {name for name, cell in cells.items() if not cell["within"]}
    assert outside == set(tool.TABLE["misses"])
    assert recorded["n_within"] == len(cells) - len(outside)


def test_the_page_shows_what_was_recorded(recorded):
    assert tool.page_tables(recorded["cells"]) in (tool.ROOT / "book" / "evaluator.md").read_text()


@pytest.mark.parametrize(
    ("ours", "reference", "within"),
    [(0.9423, 0.91, True), (0.944, 0.91, True), (0.9551, 0.91, False), (0.88, 0.91, True), (0.874, 0.91, False)],
)
def test_values_are_compared_with_two_digits(ours, reference, within):
    assert tool.cell("x", "y", reference, 0.03, ours)["within"] is within


def test_what_predictors_of_quality_prefer(recorded):
    """Text-only, TASTE and the unit topline above the recording, a codec below: they cannot lead."""
    for key, sign in (("text_only", 1), ("taste", 1), ("units", 1), ("encodec", -1)):
        assert sign * recorded[f"{key}_minus_original_dnsmos"]["value"] > 0, key


def test_mutants_fail(recorded):
    """The words of another edit, and another utterance's durations, do not reproduce the values."""
    by_words = {"0-2": "14-16", "14-16": "0-2"}
    for edit in recorded["edits"]:
        if edit["swapped"] not in by_words:
            continue
        host, donor, edited = (np.log(np.array(seconds)) for seconds in edit["edit_seconds"])
        wrong = read_swapped(by_words[edit["swapped"]], len(host))
        inside, _ = split(coefficients(host, donor, edited), wrong)
        assert abs(np.median(inside) - 0.86) > 0.3
    rows = {(row["id"], row["system"]): row for row in recorded["utterances"]}
    names = list(tool.TABLE["texts"])
    hits = words = 0
    for a, b in zip(names, names[1:], strict=False):
        one, other = (np.array(rows[name, "taste"]["word_seconds"][side]) for name, side in ((a, 0), (b, 1)))
        n = min(len(one), len(other))
        hits, words = hits + metrics.consistent(one[:n], other[:n], 0.050), words + n
    assert hits / words < 0.5


def test_a_small_part_measured_again(recorded, demo_dir):
    row = next(row for row in recorded["utterances"] if row["system"] == "taste")
    path = next((demo_dir / "recon" / "samples").glob(f"{row['id']}_taste.*"))
    wav = read_audio(path, SAMPLE_RATE, convert=True)
    times = metrics.word_times(wav, row["text"])
    seconds = np.diff([*(word.start for word in times), times[-1].end])
    assert seconds == pytest.approx(row["word_seconds"][1], abs=0.011)  # a frame of the aligner
    assert metrics.dnsmos_p808(wav) == pytest.approx(row["dnsmos_p808"], abs=0.01)
