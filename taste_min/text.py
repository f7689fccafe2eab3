"""Words, and the two tokenizers that meet only through word indices (paper section 3.1; 3.2 for the language model).

A word is what white space separates. Each word is tokenized on its own with a leading space, and every token keeps the
index of its word. Whisper tokens and language-model tokens of one word share that index.

Axes: N text tokens, W words.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import torch
from tokenizers import Tokenizer

from .errors import TasteError


@dataclass(frozen=True)
class Word:
    """One word as written in the text, with its start and end in seconds from the beginning of the recording."""

    text: str
    start: float
    end: float

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.end - self.start

    @property
    def centre(self) -> float:
        """Seconds."""
        return (self.start + self.end) / 2


def read_word(text: str, start: float, end: float) -> Word:
    """A word that comes from a file. Raises ValueError or TypeError when it is none, or has no times."""
    if not isinstance(text, str) or not 0 <= start <= end < math.inf:
        raise ValueError("a word has no text or no times")
    return Word(text, start, end)


@dataclass(frozen=True)
class TokenizedText:
    """words: W strings without spaces. token_ids, word_ids: (N,) int64; word_ids runs from 0 to W - 1."""

    words: list[str]
    token_ids: torch.Tensor
    word_ids: torch.Tensor


def split_words(text: str) -> list[str]:
    """Split on white space; repeated spaces make no empty word."""
    return text.split()  # dev: no-empty-words


def tokenize(tokenizer: Tokenizer, words: list[str]) -> TokenizedText:
    """Tokenize each word with a leading space. Raises TasteError when there are no words."""
    if not words:
        raise TasteError("there are no words; give a transcript, or a recording in which somebody speaks.")
    token_ids, word_ids = [], []
    for index, word in enumerate(words):
        ids = tokenizer.encode(" " + word, add_special_tokens=False).ids
        token_ids += ids
        word_ids += [index] * len(ids)
    return TokenizedText(words, torch.tensor(token_ids), torch.tensor(word_ids))


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Read `tokenizer.json` in a folder. Raises TasteError when it is missing or damaged."""
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise TasteError(f"there is no tokenizer.json in {folder}; run `taste-min fetch` or name another folder.")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises bare Exception
        reason = shorten(str(error), 99)
        raise TasteError(f"{path} is not a tokenizer file ({reason}); fetch it again.") from error
