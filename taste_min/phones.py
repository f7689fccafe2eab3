"""Text as speech sounds: what the mini unit decoder reads instead of text tokens.

The original decoder has one position per text token and 40,000 hours to learn how each of 50,000 tokens sounds. An hour
of speech does not teach that. So the mini decoder reads the sounds of a pronouncing dictionary.

Axes: B batch, N text tokens, L sounds of a text, D width.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from .align import lookup
from .pronounce import pronounce, spoken_form

PAUSES = (" ", ",", ".", "?")  # between two words: nothing written, within and at the end of a sentence, a question
PAUSE_OF = {"?": "?"} | dict.fromkeys(".!", ".") | dict.fromkeys(",;:-", ",")
_SOUNDS = "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"
SOUNDS = tuple(_SOUNDS.split())
SYMBOLS = ("", *PAUSES, *SOUNDS)  # the first one is padding
INDEX = {symbol: i for i, symbol in enumerate(SYMBOLS)}


@functools.cache
def word_sounds(word: str) -> tuple[str, ...]:
    """ARPAbet sounds of one written word, by dictionary or by rule, and the pause after it: 'Hi,' -> HH AY ','.

    What has no sound ('-') is only a pause.
    """
    # dev: sounds-for-text
    parts = [lookup(part) or pronounce(part, lookup) for part in spoken_form(word)]
    return (*" ".join(parts).split(), PAUSE_OF.get(word.strip("\"')")[-1:], " "))


@dataclass(frozen=True)
class Sounds:
    """The sounds of a batch of texts. symbols: (B, L) index in SYMBOLS, 0 = padding. lengths: (B,).

    tokens: (B, L) position 0 .. N - 1 of the last token of the word of each sound, -1 for padding. A pause belongs to
    the word before it, the one in front of the text to the first word.
    """

    symbols: torch.Tensor
    tokens: torch.Tensor
    lengths: torch.Tensor


class SoundReader(nn.Module):
    """Sounds as vectors that know their neighbours: "t" in "stop" is not "t" in "top".

    What the tokens spell is known from `read_vocabulary` on and is in no file of weights.
    """

    def __init__(self, d_model: int):
        super().__init__()
        self.tokenizer: Tokenizer | None = None
        self.embedding = nn.Embedding(len(SYMBOLS), d_model, padding_idx=0)
        self.convs = nn.ModuleList(nn.Conv1d(d_model, d_model, 5, padding=2) for _ in range(2))

    def read_vocabulary(self, tokenizer: Tokenizer) -> None:
        """Learn what text tokens spell: those of this tokenizer."""
        self.tokenizer = tokenizer

    def sounds(self, text_ids: torch.Tensor, text_lengths: torch.Tensor) -> Sounds:
        """Pronounce a batch of texts. text_ids: (B, N), padded with anything beyond text_lengths (B,).

        A token that begins with a space begins a word.
        """
        symbols, tokens = [], []
        for ids, length in zip(text_ids.tolist(), text_lengths.tolist(), strict=True):
            ids = ids[:length]
            begins = [i for i, token in enumerate(ids) if i == 0 or self.tokenizer.decode([token]).startswith(" ")]
            ends = [*begins[1:], length]
            words = [self.tokenizer.decode(ids[i:j]).strip() for i, j in zip(begins, ends, strict=True)]
            said, owners = read_aloud(words)
            symbols.append(torch.tensor(said))
            tokens.append(torch.tensor(ends)[owners] - 1)
        lengths = torch.tensor([len(row) for row in symbols])
        symbols, tokens = pad_sequence(symbols, True), pad_sequence(tokens, True, padding_value=-1)
        device = text_ids.device
        return Sounds(symbols.to(device), tokens.to(device), lengths.to(device))

    def forward(self, sounds: Sounds) -> torch.Tensor:
        """One vector per sound: (B, L, D), 0 for padding."""
        real = (sounds.symbols > 0)[:, None]  # (B, 1, L)
        x = self.embedding(sounds.symbols).transpose(1, 2)  # (B, D, L)
        for conv in self.convs:
            x = (x + F.gelu(conv(x))) * real
        return x.transpose(1, 2)


def read_aloud(words: Sequence[str]) -> tuple[list[int], list[int]]:
    """Symbols of a text, with a pause in front, and the number of the word of each: two lists of length L.

    A text ends as a sentence does, also where no punctuation says so: after another pause the mini decoder, which has
    only read punctuated sentences, goes on speaking.
    """
    said, owners = [INDEX[" "]], [0]
    for number, word in enumerate(words):
        sounds = word_sounds(word)
        said += [INDEX[sound] for sound in sounds]
        owners += [number] * len(sounds)
    said[-1] = max(said[-1], INDEX["."])  # before it in INDEX: nothing written, and ","
    return said, owners
