"""Where in a text one is: the pointer of the mini unit decoder, which says what sound is due.

The original decoder finds out by itself which word is being spoken, in 40,000 hours. Here the path through the sounds
comes from forced alignment in training; a small head learns by how many sounds to go on after each unit, and leads the
pointer when units are written.

Axes: B batch, W words, L sounds of a text, U units, D width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .phones import Sounds, word_sounds

MAX_STEP = 3  # sounds that the pointer moves at most from one unit to the next
LONGEST = 64  # units that are told apart when counting how long a sound or a word has lasted


def sound_path(words: Sequence[str], times: Sequence[Sequence[tuple[float, float]]], n_units: int, rate: int = 50):
    """Which sound each unit of a recording belongs to, as `phones.read_aloud` counts them: (U,) int64.

    times: start and end in seconds of the sounds of each word, W lists. Where their number is not the dictionary's
    (another pronunciation was heard), the word is divided evenly. Silence belongs to the pause before it. The pointer
    never goes back and never jumps more than MAX_STEP sounds, so very short sounds may come late.
    """
    ends, end = [], 0.0  # of every symbol
    for word, heard in zip(words, times, strict=True):
        start, end = (heard[0][0], heard[-1][1]) if heard else (end, end)
        n = len(word_sounds(word)) - 1
        ends.append(start)  # of the pause before the word
        even = [start + (end - start) * (i + 1) / n for i in range(n)]
        ends += [sound[1] for sound in heard] if len(heard) == n else even
    middles = (torch.arange(n_units) + 0.5) / rate
    due = torch.searchsorted(torch.tensor(ends).cummax(dim=0).values, middles, right=True)  # (U,)
    at, path = 0, []
    for target in due.tolist():
        at = min(max(target, at), at + MAX_STEP) if path else min(target, MAX_STEP)
        path.append(at)
    return torch.tensor(path)


def with_end(pointer: torch.Tensor, unit_lengths: torch.Tensor, sounds: Sounds) -> torch.Tensor:
    """Add where the pointer is when the speech ends: (B, U) -> (B, U + 1); the last sound, if a step reaches it."""
    pointer, end = F.pad(pointer.clamp(min=0), (0, 1)), unit_lengths[:, None]
    before = pointer.gather(1, (end - 1).clamp(min=0))
    return pointer.scatter(1, end, torch.minimum(before + MAX_STEP, sounds.lengths[:, None] - 1))


def lasted(places: torch.Tensor) -> torch.Tensor:
    """For how many units before each one the value has been the same, at most LONGEST - 1: (B, U) -> (B, U)."""
    index = torch.arange(places.shape[1], device=places.device).expand_as(places)
    new = torch.ones_like(places, dtype=torch.bool)
    new[:, 1:] = places[:, 1:] != places[:, :-1]
    since = torch.where(new, index, 0).cummax(dim=1).values
    return (index - since).clamp(max=LONGEST - 1)


class Place(nn.Module):
    """What the unit language model hears of the pointer: the sound that is due, and how long it and its word have
    lasted."""

    def __init__(self, d_model: int):
        super().__init__()
        self.affine = nn.Linear(d_model, d_model)
        self.sound_age = nn.Embedding(LONGEST, d_model)
        self.word_age = nn.Embedding(LONGEST, d_model)

    def forward(self, due: torch.Tensor, sound_age: torch.Tensor, word_age: torch.Tensor) -> torch.Tensor:
        """due: (B, U, D) fused vectors of the sounds that are due; ages: (B, U) -> (B, U, D)."""
        return self.affine(due) + self.sound_age(sound_age) + self.word_age(word_age)


def pick(x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Vectors of x at the given positions: (B, N, D), (B, L) -> (B, L, D)."""
    return x.gather(1, places.clamp(min=0)[..., None].expand(-1, -1, x.shape[2]))


class Pointer:
    """Which sound is due while a batch is being spoken, and how long it and its word have lasted."""

    def __init__(self, sounds: Sounds, fused: torch.Tensor):
        """fused: (B, L, D), what is to be said, sound by sound."""
        self.sounds, self.fused = sounds, fused
        self.at = torch.zeros_like(self.sounds.lengths)  # (B,)
        self.sound_age, self.word_age = torch.zeros_like(self.at), torch.zeros_like(self.at)
        self.stays = torch.ones(len(self.at), device=self.at.device)  # probability that the sound has lasted so long

    @property
    def near_end(self) -> torch.Tensor:
        """Whether the last sound or the pause after it is due: (B,)."""
        return self.at >= self.sounds.lengths - 2

    @property
    def due(self) -> torch.Tensor:
        """The sound that is due, as index in `phones.SYMBOLS`: (B,)."""
        return self.sounds.symbols.gather(1, self.at[:, None])[:, 0]

    def heard(self, place: Place) -> torch.Tensor:
        """(B, 1, D)"""
        due = pick(self.fused, self.at[:, None])
        return place(due, self.sound_age.clamp(max=LONGEST - 1)[:, None], self.word_age.clamp(max=LONGEST - 1)[:, None])

    def move(self, logits: torch.Tensor) -> None:
        """Go on when the sound is more likely over than not. logits: (B, 4).

        A draw at every unit would scatter durations around what the network predicts; this takes their median.
        """
        probabilities = logits.float().softmax(dim=-1)
        self.stays = self.stays * probabilities[:, 0]
        goes = self.stays < 0.5
        step = torch.where(goes, 1 + probabilities[:, 1:].argmax(dim=-1), 0)
        before = self.sounds.tokens.gather(1, self.at[:, None])[:, 0]
        at = torch.minimum(self.at + step, self.sounds.lengths - 1)
        after = self.sounds.tokens.gather(1, at[:, None])[:, 0]
        self.sound_age = torch.where(at == self.at, self.sound_age + 1, 0)
        self.word_age = torch.where(after == before, self.word_age + 1, 0)
        self.stays = torch.where(goes, 1.0, self.stays)
        self.at = at
