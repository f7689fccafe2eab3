"""What became of prompts and texts: metrics of continuations and of speech from text, from their rows (section 4.2).

Every number derives from rows of tools/continue_speech.py, with an interval over prompts or sentences, because the
continuations of one prompt are not independent. A control pairs each prompt with the continuations of another one.

Axes: n prompts.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np

from taste_min.bootstrap import bca_interval, merge_groups, ratio

ENDS = (".", "?", "!")
Row = dict


def mean(rows: Sequence[Row], above: Callable[[Row], float], below: Callable[[Row], float] = lambda row: 1) -> dict:
    """Sum of `above` over sum of `below` with its interval over the prompts or texts of the rows, row["owner"]."""
    table = np.array([(above(row), below(row)) for row in rows], dtype=float)
    return asdict(bca_interval(merge_groups(table, [row["owner"] for row in rows]), ratio))


def moments(rows: Sequence[Row], prompts: Sequence[Row], key: str) -> np.ndarray:
    """(n, 6): 1, x, y, xy, xx, yy of each prompt, where x is its own value and y the mean of its continuations; without
    prompts of which one is missing."""
    table = []
    for prompt in prompts:
        values = [row[key] for row in rows if row["owner"] == prompt["owner"] and row[key] is not None]
        if values and prompt[key] is not None:
            x, y = prompt[key], float(np.mean(values))
            table.append((1.0, x, y, x * y, x * x, y * y))
    return np.array(table)


def correlation(sums: np.ndarray) -> np.ndarray:
    """Sums (..., 6) of `moments` -> Pearson's correlation of prompts and continuations."""
    n, x, y, xy, xx, yy = np.moveaxis(sums, -1, 0)
    return (n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y))


def shuffled_correlation(sums: np.ndarray) -> np.ndarray:
    """The mean correlation when every prompt has the continuation of another one. Over all rotations of a column, the
    right one included, products of centred values add up to 0, so this follows from the right one."""
    return -correlation(sums) / (sums[..., 0] - 1)


def of_continuations(rows: Sequence[Row], prompts: Sequence[Row]) -> dict:
    """Metrics of the continuations in `rows`. prompts: rows of all prompts, in the order of row["similarities"]."""
    voices, place = [p["voice"] for p in prompts], {p["owner"]: i for i, p in enumerate(prompts)}

    def own(row: Row) -> float:
        return row["similarities"][place[row["owner"]]]

    def others(row: Row) -> float:
        pairs = zip(row["similarities"], voices, strict=True)
        return float(np.mean([x for x, voice in pairs if voice != row["voice"]]))

    found = {
        "wer": mean(rows, lambda row: row["word_errors"], lambda row: row["reference_words"]),
        "dnsmos": mean(rows, lambda row: row["dnsmos_p808"]),
        "seconds": mean(rows, lambda row: row["seconds"]),
        "whole_sentences": mean(rows, lambda row: row["text"].rstrip("\"')").endswith(ENDS)),
        "text_nll": mean(rows, lambda row: row["text_nats"], lambda row: row["text_tokens"]),
        "text_nll_shuffled": mean(rows, lambda row: row["shuffled_text_nats"], lambda row: row["text_tokens"]),
        "text_nll_minus_shuffled": mean(
            rows, lambda row: row["text_nats"] - row["shuffled_text_nats"], lambda row: row["text_tokens"]
        ),
        "speaker_similarity": mean(rows, own),
        "speaker_similarity_shuffled": mean(rows, others),
        "speaker_similarity_minus_shuffled": mean(rows, lambda row: own(row) - others(row)),
    }
    for what in ("rate", "f0"):
        table = moments(rows, prompts, f"log_{what}")
        found[f"{what}_correlation"] = asdict(bca_interval(table, correlation))
        found[f"{what}_correlation_shuffled"] = asdict(bca_interval(table, shuffled_correlation))
        difference = bca_interval(table, lambda sums: correlation(sums) - shuffled_correlation(sums))
        found[f"{what}_correlation_minus_shuffled"] = asdict(difference)
    return found | {"n": len(rows)}


def scatter(a: Row, b: Row) -> float:
    """Mean absolute difference of the logarithms of word durations, (W,) each."""
    logs = [np.log(np.maximum(one["word_seconds"], 0.01)) for one in (a, b)]
    return float(np.abs(logs[0] - logs[1]).mean())


def of_speech(rows: Sequence[Row]) -> dict:
    """Metrics of speech from text: the seed's share of how words are said, and how far a slow or fast beginning
    reaches, as a share of what the recordings differ by."""

    def wer(name: str) -> dict:
        return mean(rows, lambda row: row[name]["word_errors"], lambda row: row[name]["reference_words"])

    def heard(*names: str) -> list[Row]:
        return [row for row in rows if all(row[name]["word_seconds"] for name in names)]

    def longer(row: Row) -> float:
        return float(np.log(sum(row["slow"]["word_seconds"]) / sum(row["fast"]["word_seconds"])))

    seeds, steered = heard("said", "repeated", "other_seed"), heard("slow", "fast")
    return {
        "tts_wer": wer("said"),
        "tts_text_only_wer": wer("text_only"),
        "tts_seed_spread": mean(seeds, lambda row: scatter(row["said"], row["other_seed"])),
        "tts_repeat_spread": mean(seeds, lambda row: scatter(row["said"], row["repeated"])),
        "tts_seed_spread_minus_repeat": mean(
            seeds, lambda row: scatter(row["said"], row["other_seed"]) - scatter(row["said"], row["repeated"])
        ),
        "tts_steered_rate_transfer": mean(
            steered, longer, lambda row: float(np.log(row["recorded_seconds"][0] / row["recorded_seconds"][1]))
        ),
        "tts_n": len(rows),
    }


def summarise(rows: Sequence[Row], spoken: Sequence[Row]) -> dict:
    """All metrics: those of the claims, over both variants of the language model; then every variant's own."""
    prompts = [row for row in rows if row["variant"] == "prompt"]
    by = {name: [row for row in rows if row["variant"] == name] for name in {row["variant"]: 0 for row in rows}}
    taslm = by["token"] + by["embedding"]
    human = [row for row in taslm if row["human"]]
    results = {"wer_against_own_text": mean(human, lambda row: row["word_errors"], lambda row: row["reference_words"])}
    whole = of_continuations(taslm, prompts)
    results |= {key: value for key, value in whole.items() if key.endswith("minus_shuffled")}
    results["words_per_second"] = mean(by["token"], lambda row: row["words"], lambda row: row["wall_seconds"])
    results |= of_speech(spoken)
    return results | {"variants": {name: of_continuations(by[name], prompts) for name in by if name != "prompt"}}
