"""How a run of the ablation is scored: per utterance, with and without the past units, with shuffled vectors.

Axes: B batch, N text tokens, U units, V classes of units and the end, R codebooks.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from taste_min.phones import PAUSES
from taste_min.pointer import lasted
from taste_min.unit_decoder import IGNORE, UnitPrediction

from .ablation import Conditioned, Protocol
from .ablation_data import Corpus, Inputs, real

# columns of the table per utterance: sums over its units and the end, then over the first units of its words
COLUMNS = ("n", "nats", "top1", "top5", "first_n", "first_nats", "first_top1", "first_top5", "step_n", "step_nats")


@contextmanager
def past_hidden(model: Conditioned):
    """Within the context the decoder sees none of the past units, as when all of them are dropped in training."""
    weight = model.unit_decoder.speech_embedding.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.zero_()
    yield
    with torch.no_grad():
        weight.copy_(kept)


def begins_word(model: Conditioned, inputs: Inputs, n: int) -> torch.Tensor:
    """Which units are among the first n of a word, pauses not counted: (B, U)."""
    batch = inputs.batch
    sounds = model.unit_decoder.reader.sounds(batch.token_ids, batch.token_lengths)
    symbols, words = (x.gather(1, batch.pointer) for x in (sounds.symbols, sounds.tokens))  # (B, U)
    spoken = symbols > len(PAUSES)
    return spoken & (lasted(torch.where(spoken, words, -1)) < n)


def scores(prediction: UnitPrediction, first: torch.Tensor, lengths: torch.Tensor) -> list[list[float]]:
    """One row of COLUMNS per utterance. first: (B, U)."""
    rows = []
    for i, n in enumerate(lengths.tolist()):
        keep = prediction.labels[i] != IGNORE
        logits, labels = prediction.logits[i][keep].float(), prediction.labels[i][keep]  # (n + 1, V)
        nats = nn.functional.cross_entropy(logits, labels, reduction="none")
        best = logits.topk(5, dim=-1).indices == labels[:, None]  # (n + 1, 5)
        values = torch.stack((torch.ones(n + 1), nats, best[:, 0].float(), best.any(dim=-1).float()))  # (4, n + 1)
        keep = prediction.step_labels[i] != IGNORE
        steps, moved = prediction.step_logits[i][keep].float(), prediction.step_labels[i][keep]
        step_nats = nn.functional.cross_entropy(steps, moved, reduction="sum")
        sums = [*values.sum(dim=1).tolist(), *values[:, :n][:, first[i, :n]].sum(dim=1).tolist()]
        rows.append([round(x, 3) for x in (*sums, len(moved), float(step_nats))])
    return rows


def shuffled(vectors: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Every real vector (B, N, D) at the place of another one of the batch; none stays where it was."""
    order = torch.randperm(int(mask.sum()), generator=generator)
    taken = torch.empty_like(order)
    taken[order] = order.roll(1)  # one cycle through all of them
    return torch.zeros_like(vectors).masked_scatter(mask[..., None], vectors[mask][taken])


@torch.no_grad()
def evaluate(model: Conditioned, corpus: Corpus, protocol: Protocol, full: bool = False) -> dict[str, list]:
    """Table per utterance, in the order of the corpus: "with_past"; with `full` also "without_past" and "shuffled"."""
    model.eval()
    order = sorted(range(len(corpus.rows)), key=lambda n: corpus.rows[n]["n_units"])
    size = max(1, protocol.budget // 150)
    tables: dict[str, dict[int, list]] = {}
    generator = torch.Generator().manual_seed(0)
    for start in range(0, len(order), size):
        numbers = order[start : start + size]
        inputs = corpus.load(numbers, model.condition.source, model.condition.values)
        vectors, _ = model.vectors(inputs)
        first = begins_word(model, inputs, protocol.first_units)

        def add(name, vectors, inputs=inputs, first=first, numbers=numbers):
            rows = scores(model(inputs, vectors), first, inputs.batch.unit_lengths)
            tables.setdefault(name, {}).update(zip(numbers, rows, strict=True))

        add("with_past", vectors)
        if full:
            with past_hidden(model):
                add("without_past", vectors)
            if vectors is not None:
                add("shuffled", shuffled(vectors, real(inputs), generator))
    return {name: [rows[n] for n in range(len(order))] for name, rows in tables.items()}


@torch.no_grad()
def usage(model: Conditioned, batches: Iterator[Inputs]) -> dict:
    """Of every codebook over the words of some batches: perplexity of its codes, and codes that no word has."""
    model.eval()
    codes = []
    for inputs in batches:
        ids, mask = inputs.batch.word_ids, real(inputs)
        begins = torch.cat((torch.ones_like(ids[:, :1], dtype=torch.bool), ids.diff(dim=1) != 0), dim=1) & mask
        codes.append(model.vectors(inputs)[1].codes[begins])
    codes = torch.cat(codes)  # (n, R)
    shares = [torch.bincount(column, minlength=model.condition.codebook_size) / len(codes) for column in codes.T]
    return {
        "words": len(codes),
        "perplexity": [round(float(torch.exp(torch.special.entr(share).sum())), 2) for share in shares],
        "dead": [int((share == 0).sum()) for share in shares],
    }
