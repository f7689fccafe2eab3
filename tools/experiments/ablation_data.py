"""What the ablation reads: text, classes of units, and encoder states per frame or gathered per word (see ablation.py).

Axes: B batch, N text tokens, W words, T encoder frames, U units, D width, H heads.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from taste_min.aggregator import Aggregator, pool_words
from taste_min.data import Batch, FeatureStore
from taste_min.errors import TasteError
from taste_min.units import kmeans, nearest

LAYERS = ("hidden_0", "hidden_1", "hidden_2", "hidden_3", "last")  # by depth; "last" is after the final layer norm


@dataclass(frozen=True)
class Inputs:
    """batch: text and units. states: (B, T, D) frames, (B, N, D) words, (B, N, H, D) attended; None = text only."""

    batch: Batch
    states: torch.Tensor | None = None


class KeptStore(FeatureStore):
    """Features that stay in memory once they were read: small corpora, many epochs."""

    def __init__(self, folder: str | Path, split: str | Sequence[str] = "train"):
        super().__init__(folder, split)
        self.tensor = functools.cache(super().tensor)


class Corpus:
    """The utterances of one split up to a length, and what the conditions hear."""

    def __init__(
        self,
        store: FeatureStore,
        seconds: float,
        words: Path,
        classes: torch.Tensor,
        only: Sequence[str] | None = None,
    ):
        """words: the file that `write_words` made. classes: (units,) the class of every unit, from `join_units`.
        only: ids of utterances, in this order; default: all.

        Raises TasteError when no utterance is short enough, and when one of `only` is missing.
        """
        self.store, self.classes, file = store, classes, safe_open(str(words), "pt")
        self.words = functools.cache(lambda name: file.get_tensor(name).float())
        self.indices = [i for i, row in enumerate(store.rows) if row["seconds"] <= seconds]
        if not self.indices:
            raise TasteError(f"no utterance is shorter than {seconds} s; choose a longer limit.")
        if only is not None:
            places = {store.rows[i]["id"]: i for i in self.indices}
            if missing := [name for name in only if name not in places]:
                raise TasteError(f"the features have no {missing[0]}; build a corpus that holds it.")
            self.indices = [places[name] for name in only]
        self.rows = [store.rows[i] for i in self.indices]

    def lengths(self) -> list[int]:
        return [3 + row["n_sounds"] + row["n_units"] for row in self.rows]

    def load(self, numbers: Sequence[int], source: str, values: str) -> Inputs:
        """The utterances at some places of the corpus. source, values: as in `ablation.Condition`."""
        indices = [self.indices[n] for n in numbers]
        batch = self.store.text_and_units(indices, None)
        batch = replace(batch, units=self.classes[batch.units])
        if source == "none":
            return Inputs(batch)
        if source == "frames":
            parts = [self.store.tensor(i, values) for i in indices]  # (T, D)
            batch = replace(batch, frame_lengths=torch.tensor([len(part) for part in parts]))
            return Inputs(batch, pad_sequence(parts, batch_first=True))
        name = "words" if source == "words" else values
        parts = [self.words(f"{id}.{name}") for id in batch.ids]  # (W, D) or (W, H, D)
        parts = [part[ids[:n]] for part, ids, n in zip(parts, batch.word_ids, batch.token_lengths, strict=True)]
        return Inputs(batch, pad_sequence(parts, batch_first=True))


def join_units(centroids: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Class of every unit, from its centroid (units, d): (units,) in 0 .. n_classes - 1. The same on every call."""
    return nearest(centroids, kmeans(centroids, n_classes, 50, torch.Generator().manual_seed(0)))


@torch.no_grad()
def attended(decoder: Aggregator, store: FeatureStore, index: int, layers: Sequence[str]) -> dict[str, torch.Tensor]:
    """Mean encoder states of every word of an utterance under Whisper's last cross-attention: (W, H, D) by layer.

    decoder: untrained, with Whisper's own values (`load_whisper_decoder(..., identity_values=False)`); keys are the
    last encoder layer. As in the aggregator, the vectors of a word's tokens are averaged.
    """
    last, tokens, words = (store.tensor(index, name)[None] for name in ("last", "token_ids", "word_ids"))
    words, length = words.long(), torch.tensor([tokens.shape[1]])
    weights = decoder(tokens.long(), words, length, last, last, need_attention=True).cross_attention[0, -1]  # (H, N, T)
    weights = pool_words(weights.transpose(0, 1).flatten(1)[None], words, length)[0].view(-1, *weights.shape[::2])
    begins = words[0].diff(prepend=words.new_tensor([-1])) > 0
    return {layer: weights[begins] @ store.tensor(index, layer) for layer in layers}


def stored_layers(store: FeatureStore) -> list[str]:
    """Those of LAYERS that the features hold."""
    with safe_open(str(store.paths[0]), "pt") as file:
        names = {name.split(".", 1)[1] for name in file.keys()}  # noqa: SIM118  it is no dictionary
    return [layer for layer in LAYERS if layer in names]


@torch.no_grad()
def word_vectors(aggregator: Aggregator, store: FeatureStore, index: int, values: str) -> torch.Tensor:
    """What an aggregator makes of every word of an utterance: (W, D)."""
    last, layer, tokens, words = (store.tensor(index, name)[None] for name in ("last", values, "token_ids", "word_ids"))
    words = words.long()
    pooled = aggregator(tokens.long(), words, torch.tensor([tokens.shape[1]]), last, layer).pooled[0]  # (N, D)
    return pooled[words[0].diff(prepend=words.new_tensor([-1])) > 0]


def write_words(
    path: Path, whisper: Aggregator, aggregator: Aggregator, values: str, store: FeatureStore, seconds: float
) -> None:
    """Write what all conditions hear of the words of all utterances up to a length, in half precision.

    `<id>.<layer>` is what `attended` gives with the untrained decoder `whisper`, `<id>.words` are the `word_vectors` of
    the trained aggregator.
    """
    found, layers = {}, stored_layers(store)
    for i in tqdm([i for i, row in enumerate(store.rows) if row["seconds"] <= seconds], desc="words"):
        states = attended(whisper, store, i, layers) | {"words": word_vectors(aggregator, store, i, values)}
        found |= {f"{store.rows[i]['id']}.{name}": x.half().contiguous() for name, x in states.items()}
    save_file(found, str(path))


def real(inputs: Inputs) -> torch.Tensor:
    """Which vectors are no padding: (B, N), for frames (B, T)."""
    lengths = inputs.batch.token_lengths if inputs.batch.frame_lengths is None else inputs.batch.frame_lengths
    return torch.arange(inputs.states.shape[1]) < lengths[:, None]
