"""Judging the joint language model: losses against baselines, minimal pairs, and what is left of its text ability.

Claims 8 to 10 of the paper, in the form of tests/claims.yaml. Every number is a function of sums per utterance, so that
bootstrap.py gives its interval; renderings of one sentence are one group, because they are not independent.

Axes: U utterances, G sentences, W words, R quantiser layer, K codebook size, n pairs.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from taste_min.bootstrap import Interval, bca_interval, merge_groups, paired_difference, ratio
from taste_min.data import BatchOrder, FeatureStore
from taste_min.errors import TasteError
from taste_min.llama import text_logits
from taste_min.objectives_taslm import LanguageObjective, TaslmObjective
from taste_min.quantizer import ResidualVQ
from taste_min.taslm import Taslm
from taste_min.taslm_layout import IGNORE, Batch, collate, shuffled
from taste_min.taslm_speech import position_losses
from taste_min.unit_lm import UnitBatch

BUDGET = 320  # padded positions that are judged at a time
PAIRS = 12  # of utterances that are judged at a time
TEXT, CODES = slice(0, 2), slice(2, 4)  # columns of `utterance_losses`
RATE_GAP = 1.15  # two renderings of a sentence count as of different rate when one lasts so much longer
PITCHES = ("low", "plain", "high")  # styles of tools/taslm_renderings.py that differ in nothing else


class Pair(NamedTuple):
    """Rows of a store with the same words: `kept` from its beginning, `other` from word `cut` on."""

    kept: int
    other: int
    cut: int


def utterance_losses(
    objective: LanguageObjective,
    store: FeatureStore,
    only: Sequence[int] | None = None,
    shuffle: int | None = None,
    hears_others: bool = False,
) -> np.ndarray:
    """(U, 4): sum of text losses, tokens, sum of code losses, words. The baseline has unit losses and units instead.

    only: rows of the store, all by default. shuffle: seed with which the text tokens of each utterance are put in
    another order, a control. hears_others: what was said so far is taken from another utterance, a control too.
    """
    only = np.arange(len(store)) if only is None else np.asarray(only)
    table = np.zeros((len(only), 4))
    order = BatchOrder(np.asarray(objective.lengths(store))[only], BUDGET, seed=0)
    objective.eval()
    for rows in map(order.__getitem__, range(order.per_epoch)):
        batch = objective.load(store, only[rows].tolist())
        if shuffle is not None:
            batch = batch._replace(token_ids=shuffled(batch.token_ids, shuffle))
        if hears_others:
            batch = batch._replace(codes=exchanged(batch.codes))
        table[rows] = row_sums(objective, batch)
    return table


@torch.no_grad()
def row_sums(objective: LanguageObjective, batch: Batch | UnitBatch) -> np.ndarray:
    """(B, 4): the columns of `utterance_losses` for every row of a batch that the objective has made."""
    if isinstance(objective, TaslmObjective):
        text, codes = position_losses(objective.model, batch)
        counts = (batch.text_labels >= 0).sum(1), (batch.taste_labels[..., 0] >= 0).sum(1)
    else:
        output = objective.model(batch, kl=False)
        text, codes = output.text_nll, output.unit_nll
        counts = (batch.token_ids[:, 1:] >= 0).sum(1), (batch.units >= 0).sum(1)
    return torch.stack([text.sum(1), counts[0], codes.sum(1), counts[1]], dim=1).numpy()


def exchanged(codes: torch.Tensor) -> torch.Tensor:
    """Codes (B, N, R) of the row before, wherever both rows have some."""
    other = codes.roll(1, dims=0)
    return torch.where((codes[..., :1] >= 0) & (other[..., :1] >= 0), other, codes)


def unigram_losses(train: FeatureStore, store: FeatureStore, quantizer: ResidualVQ, vectors: bool) -> np.ndarray:
    """(U, 2): sum of code losses and words when every word is expected alike: the code frequencies of the training
    speech (one added to each count), or with `vectors` its mean codebook vector."""
    codes = torch.cat([train.tensor(i, "codes").long() for i in range(len(train))])  # (n, R)
    mean = quantizer.embed_codes(codes).mean(0)
    counts = torch.stack([torch.bincount(c, minlength=quantizer.config.codebook_size) for c in codes.T]) + 1.0
    nats = -(counts / counts.sum(1, keepdim=True)).log()  # (R, K)
    rows = []
    for i in range(len(store)):
        row = store.tensor(i, "codes").long()  # (W, R)
        if vectors:
            total = (quantizer.embed_codes(row) - mean).square().mean(-1).sum()
        else:
            total = nats.gather(1, row.T).mean(0).sum()
        rows.append((float(total), len(row)))
    return np.array(rows)


def difference(a: np.ndarray, b: np.ndarray, texts: Sequence[str]) -> Interval:
    """Loss a minus loss b, each (U, 2) sums and counts of the same utterances."""
    return paired_difference(merge_groups(a, list(texts)), merge_groups(b, list(texts)), ratio)


def pairs_of(store: FeatureStore, switched: Callable[[dict, dict], bool]) -> list[Pair]:
    """All ordered pairs of renderings of one sentence for which `switched` holds, cut in the middle."""
    by_text: dict[str, list[int]] = {}
    for i, row in enumerate(store.rows):
        by_text.setdefault(row["text"], []).append(i)
    return [
        Pair(i, j, len(text.split()) // 2)
        for text, rows in by_text.items()
        for i in rows
        for j in rows
        if i != j and switched(store.rows[i], store.rows[j])
    ]


def other_speaker(a: dict, b: dict) -> bool:
    """Both evenly spoken, by two voices."""
    return a["speaker"] != b["speaker"] and a["style"] == b["style"] == "plain"


def other_rate(a: dict, b: dict) -> bool:
    """Both evenly spoken by one voice, one clearly slower."""
    slow, fast = max(a["seconds"], b["seconds"]), min(a["seconds"], b["seconds"])
    even = {a["style"], b["style"]} <= {"plain", "slow", "fast"}
    return a["speaker"] == b["speaker"] and even and slow >= RATE_GAP * fast


def other_pitch(a: dict, b: dict) -> bool:
    """Both evenly spoken by one voice at one rate, one at a clearly higher pitch."""
    return a["speaker"] == b["speaker"] and a["style"] != b["style"] and {a["style"], b["style"]} <= set(PITCHES)


def other_emphasis(a: dict, b: dict) -> bool:
    """By one voice, one evenly, the other with emphasis on every second word."""
    return a["speaker"] == b["speaker"] and {a["style"], b["style"]} == {"plain", "emphatic"}


@torch.no_grad()
def prefers_consistent(objective: TaslmObjective, store: FeatureStore, pairs: Sequence[Pair]) -> np.ndarray:
    """(n,): 1 where the codes that stay are expected more than those that switch, 0 where less, .5 for a tie.

    Only code losses count; the words are the same.
    """
    objective.eval()
    chosen = []
    for start in range(0, len(pairs), PAIRS):
        layouts = []
        for pair in pairs[start : start + PAIRS]:
            kept, other = (store.tensor(i, "codes").long() for i in (pair.kept, pair.other))
            text = [store.tensor(pair.kept, name).long() for name in ("token_ids", "word_ids")]
            switched = torch.cat([kept[: pair.cut], other[pair.cut :]])
            layouts += [objective.model.layout(*text, codes) for codes in (kept, switched)]
        losses = position_losses(objective.model, objective.hide(collate(layouts))).codes.sum(1)
        stays, switches = losses.unflatten(0, (-1, 2)).unbind(1)
        chosen += torch.where(stays == switches, 0.5, (stays < switches).float()).tolist()
    return np.array(chosen)


def share(chosen: np.ndarray, texts: Sequence[str]) -> Interval:
    """Mean of `chosen (n,)` with its interval over sentences."""
    return bca_interval(merge_groups(np.stack([chosen, np.ones(len(chosen))], 1), list(texts)), ratio)


@torch.no_grad()
def text_losses(model: Taslm, sentences: Sequence[str], adapted: bool) -> np.ndarray:
    """(G, 2): nats and tokens of written sentences, read as text alone; adapted: with LoRA or as it was before."""
    if model.tokenizer is None:
        raise TasteError("reading text needs the tokenizer of the language model.")
    rows = []
    for sentence in sentences:
        ids = torch.tensor([[model.config.sos_id, *model.tokenizer.encode(sentence, add_special_tokens=False).ids]])
        if adapted:
            logits = text_logits(model.llm, ids)
        else:
            with model.language_model.disable_adapter():
                logits = text_logits(model.llm, ids)
        nats = F.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum", ignore_index=IGNORE)
        rows.append((float(nats), ids.shape[1] - 1))
    return np.array(rows)


def perplexity_rise(after: np.ndarray, before: np.ndarray) -> Interval:
    """exp(loss after - loss before) - 1, both (G, 2) of the same sentences."""
    table = np.stack([after[:, 0], before[:, 0], before[:, 1]], axis=1)
    return bca_interval(table, rise)


def rise(sums: np.ndarray) -> np.ndarray:
    """Columns (nats after, nats before, tokens) -> relative rise of the perplexity."""
    return np.exp((sums[..., 0] - sums[..., 1]) / sums[..., 2]) - 1


def rise_difference(a: np.ndarray, b: np.ndarray, before: np.ndarray) -> Interval:
    """How much more the perplexity rose with a than with b, all (G, 2) of the same sentences."""
    tables = (np.stack([after[:, 0], before[:, 0], before[:, 1]], axis=1) for after in (a, b))
    return paired_difference(*tables, rise)
