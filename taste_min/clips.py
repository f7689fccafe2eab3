"""Short recordings with their words in time, for the notebooks: five human ones, and the shipped synthetic samples.

Axes: S samples at 16 kHz, W words.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from . import assets
from .align import Word, align
from .audio import read_audio
from .corpus import load_manifest

SAMPLES = Path(__file__).parent / "samples"


@dataclass(frozen=True)
class Clip:
    """wav: (S,) at 16 kHz. words: one per white-space separated word of `text`, forced-aligned. voice: who speaks."""

    name: str
    voice: str
    text: str
    wav: torch.Tensor
    words: list[Word]


def _clip(path: Path, voice: str, text: str) -> Clip:
    wav = read_audio(path, convert=True)
    return Clip(path.stem, voice, text, wav, align(wav, text))


def human_clips() -> list[Clip]:
    """One reader's five sentences of Sense and Sensibility (LibriVox, public domain). Never used for fitting."""
    folder = assets.fetch("librivox", progress=False)
    return [
        _clip(path, "librivox", path.with_suffix(".txt").read_text(encoding="utf-8").strip())
        for path in sorted(folder.glob("*.wav"))
    ]


def sample_clips(folder: Path = SAMPLES) -> list[Clip]:
    """The synthetic samples of the package, in the order of their manifest (see corpus.py)."""
    return [
        Clip(row.id, row.speaker, row.text, read_audio(row.audio, convert=True), row.words)
        for row in load_manifest(folder)
    ]
