"""How good a system is on recordings with known texts: one row per utterance, metrics with intervals, differences.

The paper's reconstruction table (section 4.2, table 1) with the prosody of words beside it. A metric is a function of
sums over rows (bootstrap.py), so every reported number derives again from the rows. Recordings of the same text are
not independent and are drawn together.

Axes: G groups of recordings with one text, C columns of sums.
"""

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import torch

from . import metrics
from .audio import N_FFT, SAMPLE_RATE, SILENCE, WINDOW_SECONDS
from .bootstrap import Interval, bca_interval, correlation, excess, merge_groups, paired_difference, ratio
from .errors import TasteError
from .judge import Judge
from .recordings import Recording
from .speaker import GE2E, CAMPPlus
from .systems import Spoken, System

LONGEST_COLUMN = 100  # characters; longer columns of the manifest are not copied into the result

Row = dict


def _products(name: str) -> Callable[[Row], tuple | None]:
    def columns(row: Row) -> tuple | None:
        if row.get(name) is None:
            return None
        return metrics.centred_products(*(np.array(values, dtype=float) for values in row[name]))

    return columns


def _columns(*names: str) -> Callable[[Row], tuple | None]:
    """Columns of a row, None when it lacks one; the name "1" is the number one."""

    def columns(row: Row) -> tuple | None:
        values = [1 if name == "1" else row.get(name) for name in names]
        return None if None in values else tuple(values)

    return columns


# metric -> (function of column sums, columns of one row)
METRICS = {
    "wer": (ratio, _columns("word_errors", "reference_words")),
    "wer_above_original": (excess, _columns("word_errors", "word_errors_original", "reference_words")),
    "duration_consistency_50ms": (ratio, _columns("within_50ms", "timed_words")),
    "duration_consistency_25ms": (ratio, _columns("within_25ms", "timed_words")),
    "word_f0_correlation": (correlation, _products("word_log_f0")),
    "word_energy_correlation": (correlation, _products("word_energy_db")),
    "dnsmos_p808": (ratio, _columns("dnsmos_p808", "1")),
    "dnsmos_p808_above_original": (excess, _columns("dnsmos_p808", "dnsmos_p808_original", "1")),
    "speaker_similarity": (ratio, _columns("speaker_similarity", "1")),
    "bits_per_second": (ratio, _columns("bits", "seconds_original")),
}
LABELS = {"speaker_similarity": "cosine of GE2E embeddings, not the paper's model: it is high for every codec"}


def _numbers(values: np.ndarray, digits: int = 4) -> list:
    return [round(float(value), digits) if np.isfinite(value) else None for value in values]


def measure(original: torch.Tensor, spoken: torch.Tensor, text: str, speaker_encoder: CAMPPlus | GE2E) -> Row:
    """Compare what a system said (S,) with the recording (S,), both at 16 kHz. Counts and per-word values.

    Where the system's speech cannot be aligned, none of its words counts as consistent and it has no word values;
    where the recording cannot, nothing about words is measured. Silence has no predicted quality and no speaker.
    """
    words = {"original": metrics.word_times(original, text), "system": None}
    row: Row = {"dnsmos_p808_original": round(metrics.dnsmos_p808(original), 4)}
    if not is_silent(spoken):
        words["system"] = metrics.word_times(spoken, text)
        row["dnsmos_p808"] = round(metrics.dnsmos_p808(spoken), 4)
        voices = [speaker_encoder.speaker_embedding(wav) for wav in (original, spoken)]
        row["speaker_similarity"] = round(float(voices[0] @ voices[1]), 4)
    row["aligned"] = {side: found is not None for side, found in words.items()}
    if words["original"] is None:
        return row
    row["timed_words"] = len(words["original"])
    row |= {f"within_{1000 * tolerance:.0f}ms": 0 for tolerance in metrics.TOLERANCES}
    if words["system"] is None:
        return row
    sounds = [metrics.word_sound(wav, words[side]) for side, wav in (("original", original), ("system", spoken))]
    for tolerance in metrics.TOLERANCES:
        seconds = [sound.seconds for sound in sounds]
        row[f"within_{1000 * tolerance:.0f}ms"] = metrics.consistent(*seconds, tolerance)
    row["word_seconds"] = [_numbers(sound.seconds) for sound in sounds]
    row["word_log_f0"] = [_numbers(sound.log_f0) for sound in sounds]
    row["word_energy_db"] = [_numbers(sound.energy, 2) for sound in sounds]
    return row


def _other_columns(recording: Recording) -> dict[str, str]:
    """What else the manifest says, without long columns and without where the file lies."""
    known = ("id", "audio", "text")
    return {k: v for k, v in recording.columns.items() if k not in known and len(v) <= LONGEST_COLUMN}


def is_silent(wav: torch.Tensor) -> bool:
    return len(wav) < SAMPLE_RATE // 10 or bool(wav.abs().max() < SILENCE)


def evaluate_batch(
    system: System, recordings: list[Recording], judge: Judge, speaker_encoder: CAMPPlus | GE2E, seed: int
) -> tuple[list[Row], list[Spoken]]:
    """Let a system say some recordings and measure every one."""
    originals = [recording.load() for recording in recordings]
    spoken = system.speak(recordings, seed)
    said = [one.at_16k()[: WINDOW_SECONDS * SAMPLE_RATE] for one in spoken]  # what rambles on is not heard out
    audible = [wav if len(wav) >= N_FFT else torch.zeros(N_FFT) for wav in said]
    heard_original = judge.transcribe(originals)
    heard = heard_original if system.name == "original" else judge.transcribe(audible)
    rows = []
    for i, recording in enumerate(recordings):
        found = "" if is_silent(said[i]) else heard[i]
        errors = metrics.word_errors(recording.text, found)
        row = {"id": recording.id, "text": recording.text, "columns": _other_columns(recording), "heard": found}
        row |= {"word_errors": errors.errors, "reference_words": errors.words}
        row["seconds_original"] = round(len(originals[i]) / SAMPLE_RATE, 4)
        if system.name == "original":
            row["dnsmos_p808"] = round(metrics.dnsmos_p808(originals[i]), 4)
        else:
            row["word_errors_original"] = metrics.word_errors(recording.text, heard_original[i]).errors
            row["heard_original"] = heard_original[i]
            row |= {"seconds_spoken": round(len(spoken[i].wav) / spoken[i].sample_rate, 4), "ended": spoken[i].ended}
            if spoken[i].bits is not None:
                row["bits"] = round(spoken[i].bits, 2)
            row |= measure(originals[i], said[i], recording.text, speaker_encoder)
        rows.append(row)
    return rows, spoken


def table(rows: list[Row], metric: str) -> np.ndarray:
    """Column sums of a metric per text (G, C), in the order of the sorted texts; G = 0 when no row has it."""
    found = [(row["text"], values) for row in rows if (values := METRICS[metric][1](row)) is not None]
    if not found:
        return np.zeros((0, 1))
    texts, values = zip(*found, strict=True)
    return merge_groups(np.array(values, dtype=float), list(texts))


def aggregate(rows: list[Row]) -> dict[str, dict]:
    """Every metric that the rows hold, with its interval; low and high are None when all rows have the same text."""
    results = {}
    for metric, (statistic, _) in METRICS.items():
        sums = table(rows, metric)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(statistic(sums.sum(axis=0))) if len(sums) else np.nan
        if not np.isfinite(value):
            continue
        interval = bca_interval(sums, statistic) if len(sums) > 1 else Interval(value, None, None)
        results[metric] = asdict(interval) | ({"note": LABELS[metric]} if metric in LABELS else {})
    return results


def compare(a: dict, b: dict) -> dict[str, dict]:
    """Result a minus result b for every metric that both hold, paired by utterance, with its interval.

    Raises TasteError when they measured different utterances or had different judges.
    """
    rows = [sorted(result["utterances"], key=lambda row: row["id"]) for result in (a, b)]
    if [row["id"] for row in rows[0]] != [row["id"] for row in rows[1]]:
        raise TasteError("the two results measured different utterances; evaluate both systems on the same manifest.")
    if a["run"]["judge"] != b["run"]["judge"]:
        raise TasteError("the two results have different judges; evaluate both with the same --judge.")
    differences = {}
    for metric, (statistic, columns) in METRICS.items():
        both = [i for i in range(len(rows[0])) if columns(rows[0][i]) is not None and columns(rows[1][i]) is not None]
        tables = [table([side[i] for i in both], metric) for side in rows]
        if len(tables[0]) > 1 and all(np.isfinite(statistic(sums.sum(axis=0))) for sums in tables):
            differences[metric] = asdict(paired_difference(*tables, statistic))
    return differences
