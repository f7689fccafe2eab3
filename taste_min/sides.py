"""What is heard in one recording, and what a comparison of two or three recordings gives: the rows of an evaluation.

Reconstruction compares a system's speech with the recording (paper section 4.2), editing compares an edit with its host
and its donor (section 4.4). Every recording is listened to once; comparing is cheap, except for ViSQOL.

Axes: S samples, W words.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from . import metrics, quality, transfer
from .audio import SAMPLE_RATE, SILENCE
from .speaker import GE2E, CAMPPlus
from .text import Word

Row = dict


@dataclass(frozen=True)
class Side:
    """One recording. wav: (S,) at 16 kHz. words, sound: its words, None where the text was not found in it.

    voice: speaker embedding. scores: predicted quality by name. Silence has no words, no voice and no scores.
    """

    wav: torch.Tensor
    words: list[Word] | None
    sound: metrics.WordSound | None
    voice: torch.Tensor | None
    scores: dict[str, float]


def is_silent(wav: torch.Tensor) -> bool:
    return len(wav) < SAMPLE_RATE // 10 or bool(wav.abs().max() < SILENCE)


def numbers(values: np.ndarray, digits: int = 4) -> list:
    """Rounded for JSON; None where there is no number."""
    return [round(float(value), digits) if np.isfinite(value) else None for value in values]


def predicted(wav: torch.Tensor, skip: Sequence[str] = ()) -> dict[str, float]:
    """Quality of a recording (S,) as predicted without a reference, by name. skip: may hold "distillmos"."""
    scores = {"dnsmos_p808": round(metrics.dnsmos_p808(wav), 4)}
    if "distillmos" not in skip:
        scores["distillmos"] = round(quality.distillmos(wav), 4)
    return scores


def listen(wav: torch.Tensor, text: str, speaker_encoder: CAMPPlus | GE2E, skip: Sequence[str] = ()) -> Side:
    """Everything that is measured on one recording (S,) at 16 kHz of a known text."""
    if is_silent(wav):
        return Side(wav, None, None, None, {})
    words = metrics.word_times(wav, text)
    sound = None if words is None else metrics.word_sound(wav, words)
    return Side(wav, words, sound, speaker_encoder.speaker_embedding(wav), predicted(wav, skip))


def _common(original: Side, spoken: Side) -> Row:
    row: Row = {f"{name}_original": value for name, value in original.scores.items()} | spoken.scores
    if original.voice is not None and spoken.voice is not None:
        row["speaker_similarity"] = round(float(original.voice @ spoken.voice), 4)
    return row


def _word_values(prefix: str, sides: Sequence[Side]) -> Row:
    sounds = [side.sound for side in sides]
    return {
        f"{prefix}_seconds": [numbers(sound.seconds) for sound in sounds],
        f"{prefix}_log_f0": [numbers(sound.log_f0) for sound in sounds],
        f"{prefix}_energy_db": [numbers(sound.energy, 2) for sound in sounds],
    }


def compare_sides(original: Side, spoken: Side, skip: Sequence[str] = ()) -> Row:
    """Counts and per-word values of a reconstruction. skip: may hold "visqol".

    Where the system's speech cannot be aligned, none of its words counts as consistent and it has no word values;
    where the recording cannot, nothing about words is measured. Silence has no predicted quality and no speaker.
    """
    row = _common(original, spoken)
    if "visqol" not in skip and not is_silent(spoken.wav):
        row["visqol"] = round(quality.visqol(original.wav, spoken.wav), 4)
    row["aligned"] = {"original": original.words is not None, "system": spoken.words is not None}
    if original.words is None:
        return row
    row["timed_words"] = len(original.words)
    for tolerance in metrics.TOLERANCES:
        seconds = [side.sound.seconds for side in (original, spoken) if side.sound]
        row[f"within_{1000 * tolerance:.0f}ms"] = metrics.consistent(*seconds, tolerance) if spoken.sound else 0
    return row | (_word_values("word", (original, spoken)) if spoken.sound else {})


def compare_edit(host: Side, donor: Side, edited: Side, swapped: tuple[int, ...]) -> Row:
    """Transfer coefficients of an edit, whose words with the numbers `swapped` come from the donor.

    The host's words are not what the edit should say, so what a reconstruction is measured by is left out; per-word
    values are of host, donor and edit. Nothing about words where one of the three cannot be aligned.
    """
    sides = {"original": host, "donor": donor, "system": edited}
    row = _common(host, edited) | {"aligned": {name: side.words is not None for name, side in sides.items()}}
    if any(side.sound is None for side in sides.values()):
        return row
    row |= _word_values("edit", tuple(sides.values()))
    values = {
        "duration": [transfer.log_seconds(side.sound.seconds) for side in sides.values()],
        "f0": [side.sound.log_f0 for side in sides.values()],
    }
    for what, three in values.items():
        inside, outside = transfer.split(transfer.coefficients(*three), swapped)
        row |= {f"{what}_transfer_swapped": numbers(inside), f"{what}_transfer_unswapped": numbers(outside)}
    return row
