"""How good a system is on recordings with known texts: one row per utterance, metrics with intervals, differences.

The paper's reconstruction table (section 4.2, table 1) with the prosody of words beside it, and its editing experiment
(section 4.4). A metric is a function of sums over rows, a transfer coefficient a median of their values (bootstrap.py,
transfer.py), so every reported number derives again from the rows. Recordings of the same text are not independent and
are drawn together.

Axes: G groups of recordings with one text, C columns of sums.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import torch

from . import metrics
from .audio import N_FFT, SAMPLE_RATE, WINDOW_SECONDS
from .bootstrap import (
    Interval,
    bca_interval,
    correlation,
    excess,
    exchange_test,
    grouped_interval,
    holm,
    merge_groups,
    paired_difference,
    ratio,
)
from .errors import TasteError
from .judge import Judge
from .recordings import Recording
from .sides import Row, compare_edit, compare_sides, is_silent, listen, predicted
from .speaker import GE2E, CAMPPlus
from .systems import Spoken, System

LONGEST_COLUMN = 100  # characters; longer columns of the manifest are not copied into the result


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
    "visqol": (ratio, _columns("visqol", "1")),
    "distillmos": (ratio, _columns("distillmos", "1")),
    "distillmos_above_original": (excess, _columns("distillmos", "distillmos_original", "1")),
    "speaker_similarity": (ratio, _columns("speaker_similarity", "1")),
    "bits_per_second": (ratio, _columns("bits", "seconds_original")),
    "unit_cross_entropy": (ratio, _columns("unit_nats", "unit_positions")),
    "unit_top1_accuracy": (ratio, _columns("unit_top1", "unit_positions")),
    "unit_top5_accuracy": (ratio, _columns("unit_top5", "unit_positions")),
}
# median over words; a row holds the list of its words' coefficients
MEDIANS = tuple(f"{what}_transfer_{words}" for what in ("duration", "f0") for words in ("swapped", "unswapped"))
LABELS = {
    "distillmos": "DistillMOS, in the place of the paper's UTMOS: another model, not to be compared with its numbers",
    "codebook_perplexity": "entries in use, weighted by how often, mean over layers; at most the number of words",
    "speaker_similarity": "cosine of GE2E embeddings, not the paper's model: it is high for every codec",
    "visqol": "speech mode, polynomial mapping; another timing of the words lowers it too",
}


def _other_columns(recording: Recording) -> dict[str, str]:
    """What else the manifest says, without long columns and without where the file lies."""
    known = ("id", "audio", "text", "reference", "donor")
    return {k: v for k, v in recording.columns.items() if k not in known and len(v) <= LONGEST_COLUMN}


def evaluate_batch(
    system: System,
    recordings: list[Recording],
    judge: Judge,
    speaker_encoder: CAMPPlus | GE2E,
    seed: int,
    skip: Sequence[str] = (),
) -> tuple[list[Row], list[Spoken]]:
    """Let a system say some recordings and measure every one. skip: scores to leave out."""
    originals = [recording.load_reference() for recording in recordings]
    # the recording itself needs no comparison with itself; as a damaged version of its reference it does
    itself = [system.name == "original" and not (one.reference or one.donor) for one in recordings]
    spoken = system.speak(recordings, seed)
    said = [one.at_16k()[: WINDOW_SECONDS * SAMPLE_RATE] for one in spoken]  # what rambles on is not heard out
    audible = [wav if len(wav) >= N_FFT else torch.zeros(N_FFT) for wav in said]
    heard_original = judge.transcribe(originals)
    heard = heard_original if all(itself) else judge.transcribe(audible)
    rows = []
    for i, recording in enumerate(recordings):
        found = "" if is_silent(said[i]) else heard[i]
        errors = metrics.word_errors(recording.text, found)
        row = {"id": recording.id, "text": recording.text, "columns": _other_columns(recording), "heard": found}
        row |= {"word_errors": errors.errors, "reference_words": errors.words}
        row["seconds_original"] = round(len(originals[i]) / SAMPLE_RATE, 4)
        if itself[i]:
            row |= predicted(originals[i], skip)
        else:
            row["word_errors_original"] = metrics.word_errors(recording.text, heard_original[i]).errors
            row["heard_original"] = heard_original[i]
            row |= {"seconds_spoken": round(len(spoken[i].wav) / spoken[i].sample_rate, 4), "ended": spoken[i].ended}
            if spoken[i].bits is not None:
                row["bits"] = round(spoken[i].bits, 2)
            row |= spoken[i].teacher_forced or {}
            if spoken[i].codes is not None:
                row["codes"] = spoken[i].codes
            sides = [listen(wav, recording.text, speaker_encoder, skip) for wav in (originals[i], said[i])]
            if recording.donor:
                donor = listen(recording.load_donor(), recording.text, speaker_encoder, skip)
                row |= compare_edit(sides[0], donor, sides[1], recording.swapped)
            else:
                row |= compare_sides(*sides, skip)
        rows.append(row)
    return rows, spoken


def table(rows: list[Row], metric: str) -> np.ndarray:
    """Column sums of a metric per text (G, C), in the order of the sorted texts; G = 0 when no row has it."""
    found = [(row["text"], values) for row in rows if (values := METRICS[metric][1](row)) is not None]
    if not found:
        return np.zeros((0, 1))
    texts, values = zip(*found, strict=True)
    return merge_groups(np.array(values, dtype=float), list(texts))


def _values(rows: list[Row], name: str) -> list[np.ndarray]:
    """All values of one of MEDIANS, one array per text that has them, in the order of the sorted texts."""
    texts = sorted({row["text"] for row in rows if row.get(name) is not None})
    own = [[row[name] for row in rows if row["text"] == text and row.get(name) is not None] for text in texts]
    return [np.array([value for values in lists for value in values], dtype=float) for lists in own]


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
    for name in MEDIANS:
        groups = [values for values in _values(rows, name) if len(values)]
        if groups:
            alone = len(groups) == 1
            interval = Interval(float(np.median(groups[0])), None, None) if alone else grouped_interval(groups)
            results[name] = asdict(interval) | {"words": sum(map(len, groups))}
    codes = np.array([word for row in rows for word in row.get("codes", [])])  # (W, R)
    if len(codes):
        value = {"value": codebook_perplexity(codes), "low": None, "high": None, "words": len(codes)}
        results["codebook_perplexity"] = value | {"note": LABELS["codebook_perplexity"]}
    return results


def codebook_perplexity(codes: np.ndarray) -> float:
    """exp of the entropy of the entries that words use, mean over quantizer layers; codes: (W, R)."""
    shares = [np.unique(layer, return_counts=True)[1] / len(layer) for layer in codes.T]
    return float(np.mean([np.exp(-(p * np.log(p)).sum()) for p in shares]))


def compare(a: dict, b: dict, tests: bool = False) -> dict[str, dict]:
    """Result a minus result b for every metric that both hold, paired by utterance, with its interval.

    tests: also p of the exchange test, for all but medians, and holm_p, adjusted for all metrics that are compared.
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
        sums = [table([side[i] for i in both], metric) for side in rows]
        if len(sums[0]) > 1 and all(np.isfinite(statistic(side.sum(axis=0))) for side in sums):
            differences[metric] = asdict(paired_difference(*sums, statistic))
            if tests:
                differences[metric]["p"] = exchange_test(*sums, statistic)
    if tests:
        for row, p in zip(differences.values(), holm([row["p"] for row in differences.values()]), strict=True):
            row["holm_p"] = p
    for name in MEDIANS:
        both = [i for i in range(len(rows[0])) if rows[0][i].get(name) is not None and rows[1][i].get(name) is not None]
        sides = [_values([side[i] for i in both], name) for side in rows]
        groups = [  # (values, 2): a value and the side it is from
            np.stack([np.concatenate(pair), np.repeat([0, 1], [len(pair[0]), len(pair[1])])], axis=1)
            for pair in zip(*sides, strict=True)
        ]
        if len(groups) > 1 and all(sum(map(len, side)) for side in sides):
            differences[name] = asdict(grouped_interval(groups, _median_difference))
    return differences


def _median_difference(values: np.ndarray) -> float:
    a, b = (values[values[:, 1] == side, 0] for side in (0, 1))
    return float(np.median(a) - np.median(b)) if len(a) and len(b) else np.nan
