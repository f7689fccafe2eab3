"""What a word's vector and codes say that its text does not: linear probes on the shipped weights (claim 6).

Every word of the corpus becomes a row: z (the aggregator's vector, before the quantizer), the quantized vector that its
codes stand for, and its text (mean of Whisper's token embeddings). A probe is a ridge regression that is fitted on
sentences of the training split; its strength is chosen on dev, for every target and representation; the numbers are of
the sentences of the test split, with an interval from drawing whole sentences. The control "shuffled" is the quantized
vector of another word of the same split. Training recordings that were played faster or slower are left out.

Axes: n words, D width, R codebooks, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import torch

from taste_min.bootstrap import Interval, bca_interval, merge_groups, paired_difference, ratio
from taste_min.data import FeatureStore
from taste_min.errors import TasteError
from taste_min.features import shift_of
from taste_min.objectives import PROSODY
from taste_min.probe import fit_ridge, one_hot
from taste_min.pronounce import spoken_form
from taste_min.text import split_words

if TYPE_CHECKING:
    from taste_min.tokenizer import Taste

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
TARGETS = {"duration": "duration", "f0": "pitch", "energy": "loudness"}  # our names -> columns of PROSODY
BATCH = 16


@dataclass(frozen=True)
class Words:
    """One row per word. z, codes (quantized vectors), text: (n, D). prosody: (n, 4), NaN = unknown. others: (n,)."""

    z: np.ndarray
    codes: np.ndarray
    text: np.ndarray
    prosody: np.ndarray
    word: np.ndarray
    speaker: np.ndarray
    sentence: np.ndarray

    def represented(self, name: str) -> np.ndarray:
        """The input of a probe: a field, "text_and_codes", or the control "shuffled"."""
        if name == "shuffled":
            return self.codes[np.random.default_rng(0).permutation(len(self.codes))]
        if name == "text_and_codes":
            return np.hstack([self.text, self.codes])
        return getattr(self, name)


@torch.no_grad()
def read_words(taste: "Taste", store: FeatureStore) -> Words:
    """The words of all recordings of a store that were played as they are. Raises TasteError without a quantizer."""
    quantizer, aggregator = taste.part("quantizer"), taste.aggregator
    chosen = [i for i, row in enumerate(store.rows) if shift_of(SimpleNamespace(**row)) == 1]
    chosen.sort(key=lambda i: store.rows[i]["n_frames"])
    columns: dict[str, list] = {name: [] for name in Words.__dataclass_fields__}
    for start in range(0, len(chosen), BATCH):
        indices = chosen[start : start + BATCH]
        batch = store.text_and_units(indices, f"hidden_{taste.config.encoder.shallow_layer}")
        vectors = aggregator(
            batch.token_ids,
            batch.word_ids,
            batch.token_lengths,
            batch.last,
            batch.values,
            key_lengths=batch.frame_lengths if taste.trim_keys else None,
        ).pooled
        texts = aggregator.embed_tokens(batch.token_ids)
        for k, i in enumerate(indices):
            ids = batch.word_ids[k, : batch.token_lengths[k]]
            begins = ids.diff(prepend=ids.new_tensor([-1])) > 0
            z = vectors[k, : len(ids)][begins]  # (W, D)
            row, n = store.rows[i], len(z)
            of_word = one_hot(ids.numpy(), np.arange(n)).T  # (W, N)
            columns["z"].append(z.numpy())
            columns["codes"].append(quantizer(z[None]).quantized[0].numpy())
            columns["text"].append(of_word @ texts[k, : len(ids)].numpy() / of_word.sum(axis=1, keepdims=True))
            columns["prosody"].append(batch.prosody[k, : len(ids)][begins].numpy())
            columns["word"] += [" ".join(spoken_form(word)) for word in split_words(row["text"])]
            columns["speaker"] += [row["speaker"]] * n
            columns["sentence"] += [row["text"]] * n
    numbers = ("z", "codes", "text", "prosody")
    return Words(**{k: np.concatenate(v) if k in numbers else np.array(v) for k, v in columns.items()})


def explained(sums: np.ndarray) -> np.ndarray:
    """R2 from columns (n, y, y^2, squared error): 1 - error / variance around the mean of these words."""
    n, y, y2, error = np.moveaxis(sums, -1, 0)
    return 1 - error / (y2 - y * y / n)


@dataclass(frozen=True)
class Outcome:
    """table: (sentences, C) sums of a probe on the test words; statistic: from their sum to the number."""

    table: np.ndarray
    statistic: Callable

    def interval(self) -> Interval:
        return bca_interval(self.table, self.statistic)

    def minus(self, other: "Outcome") -> Interval:
        return paired_difference(self.table, other.table, self.statistic)


def _best(train: np.ndarray, target: np.ndarray, dev: np.ndarray, loss: Callable[[np.ndarray], float]) -> Callable:
    """The probe of the strength with the smallest loss of its output on dev."""
    return min((fit_ridge(train, target, s) for s in STRENGTHS), key=lambda probe: loss(probe(dev)))


def regress(target: str, name: str, train: Words, dev: Words, test: Words) -> Outcome:
    """Read one of TARGETS off a representation."""
    column = PROSODY.index(TARGETS[target])
    (x, y), (x_dev, y_dev), (x_test, y_test) = (
        (words.represented(name), words.prosody[:, column]) for words in (train, dev, test)
    )
    known, known_dev, known_test = (~np.isnan(v) for v in (y, y_dev, y_test))
    probe = _best(
        x[known], y[known][:, None], x_dev[known_dev], lambda out: np.square(out[:, 0] - y_dev[known_dev]).mean()
    )
    y, error = y_test[known_test], np.square(probe(x_test[known_test])[:, 0] - y_test[known_test])
    sums = np.stack([np.ones(len(y)), y, y * y, error], axis=1)
    return Outcome(merge_groups(sums, list(test.sentence[known_test])), explained)


def classify(target: str, name: str, train: Words, dev: Words, test: Words, at_least: int = 20) -> Outcome:
    """Share of test words whose `speaker` or `word` is recognised.

    Only classes with `at_least` training words, in two sentences or more, take part. Raises TasteError when there are
    fewer than two.
    """
    labels = getattr(train, target)
    names, counts = np.unique(labels, return_counts=True)
    classes = np.array(
        [
            x
            for x, count in zip(names, counts, strict=True)
            if count >= at_least and len(set(train.sentence[labels == x])) > 1
        ]
    )
    if len(classes) < 2:
        raise TasteError(f"too few classes of {target} for a probe; it needs a larger corpus.")
    mine, mine_dev, mine_test = (np.isin(getattr(words, target), classes) for words in (train, dev, test))

    def missed(out: np.ndarray) -> float:
        return float(np.mean(classes[out.argmax(axis=1)] != getattr(dev, target)[mine_dev]))

    x = train.represented(name)[mine]
    probe = _best(x, one_hot(labels[mine], classes), dev.represented(name)[mine_dev], missed)
    guesses = classes[probe(test.represented(name)[mine_test]).argmax(axis=1)]
    right = guesses == getattr(test, target)[mine_test]
    sums = np.stack([right, np.ones(len(right))], axis=1).astype(float)
    return Outcome(merge_groups(sums, list(test.sentence[mine_test])), ratio)


def probe_all(train: Words, dev: Words, test: Words) -> dict[str, dict]:
    """Every target from every representation as {value, low, high}, and the differences of the claims page."""
    found: dict[str, Outcome] = {}
    for name in ("z", "codes", "text", "text_and_codes", "shuffled"):
        for target in TARGETS:
            found[f"{target}_r2_{name}"] = regress(target, name, train, dev, test)
        found[f"speaker_{name}"] = classify("speaker", name, train, dev, test)
        found[f"word_identity_{name}"] = classify("word", name, train, dev, test)
    intervals = {key: outcome.interval() for key, outcome in found.items()}
    for key, other in (
        *((f"{target}_r2_codes", f"{target}_r2_text") for target in TARGETS),
        *((f"{target}_r2_z", f"{target}_r2_codes") for target in TARGETS),
        ("speaker_codes", "speaker_text"),
        ("word_identity_text_and_codes", "word_identity_text"),
    ):
        intervals[f"{key}_minus_{other.split('_')[-1]}"] = found[key].minus(found[other])
    return {key: {k: round(v, 5) for k, v in vars(interval).items()} for key, interval in intervals.items()}
