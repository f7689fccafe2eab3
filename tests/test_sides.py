"""One recording against itself, slowed and broken; edits made by hand."""

import numpy as np
import pytest
import torch

from taste_min.audio import SAMPLE_RATE
from taste_min.clips import SAMPLES
from taste_min.recordings import read_recordings
from taste_min.sides import compare_edit, compare_sides, listen
from taste_min.speaker import GE2E

SKIP = ["visqol", "distillmos"]


pytestmark = pytest.mark.usefixtures("quick_pitch")


@pytest.fixture(scope="module")
def recording():
    return read_recordings(str(SAMPLES / "manifest.tsv"), limit=1)[0]


@pytest.fixture(scope="module")
def ear(recording):
    ge2e = GE2E()
    return lambda wav: listen(wav, recording.text, ge2e, SKIP)


@pytest.fixture(scope="module")
def original(recording, ear):
    return ear(recording.load())


def test_a_recording_against_itself_slowed_and_broken(original, ear):
    wav, times = original.wav, original.words
    same = compare_sides(original, original, SKIP)
    assert same["within_25ms"] == same["timed_words"] == len(times)
    assert same["speaker_similarity"] == pytest.approx(1, abs=1e-3)
    assert same["dnsmos_p808"] == same["dnsmos_p808_original"] and "visqol" not in same
    pause = round(times[2].start * SAMPLE_RATE)  # after the second word: it lasts longer, the others do not
    paused = compare_sides(original, ear(torch.cat([wav[:pause], torch.zeros(4800), wav[pause:]])), SKIP)
    assert len(times) - 3 <= paused["within_50ms"] < len(times)
    silent = compare_sides(original, ear(torch.zeros(16_000)), SKIP)
    assert silent["aligned"] == {"original": True, "system": False}
    assert silent["within_50ms"] == 0 and silent["timed_words"] == len(times) and "dnsmos_p808" not in silent
    assert "word_seconds" not in silent


def stretched(side, words: set[int], factor: float = 1.3) -> torch.Tensor:
    """Some words played more slowly: their pitch falls with their tempo."""
    onsets = [0, *(round(word.start * SAMPLE_RATE) for word in side.words[1:]), len(side.wav)]
    pieces = [side.wav[a:b] for a, b in zip(onsets, onsets[1:], strict=False)]
    slow = [torch.nn.functional.interpolate(p[None, None], scale_factor=factor, mode="linear")[0, 0] for p in pieces]
    return torch.cat([slow[i] if i in words else piece for i, piece in enumerate(pieces)])


def test_edits_are_measured_by_what_they_take_from_the_donor(original, ear):
    swapped = (1, 2, 3)
    donor = ear(stretched(original, set(range(len(original.words)))))
    edited = ear(stretched(original, set(swapped)))
    row = compare_edit(original, donor, edited, swapped)
    for what in ("duration", "f0"):
        assert np.median(row[f"{what}_transfer_swapped"]) == pytest.approx(1, abs=0.3)
        assert np.median(row[f"{what}_transfer_unswapped"]) == pytest.approx(0, abs=0.3)
    assert not {"within_50ms", "word_log_f0", "visqol"} & row.keys()
    assert set(compare_edit(original, donor, original, swapped)["duration_transfer_swapped"]) == {0}  # no edit at all
    wrong = compare_edit(original, donor, edited, (5, 6, 7))  # other words than those that were swapped
    assert np.median(wrong["duration_transfer_swapped"]) < 0.5
    lost = compare_edit(original, donor, ear(torch.zeros(16_000)), swapped)
    assert lost["aligned"] == {"original": True, "donor": True, "system": False}
    assert "duration_transfer_swapped" not in lost
