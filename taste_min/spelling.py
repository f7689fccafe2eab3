"""Text tokens spelled out: the mini unit decoder reads letters, so that a few hours of speech teach it to speak.

The original decoder has one position per text token and 40,000 hours to learn how each of 50,000 tokens sounds. Letters
recur in every sentence, and each stands for a short stretch of sound, which makes speaking a matter of moving along
the letters.

Axes: B batch, N text tokens, L letters of a text, C letters of a token, D width, V vocabulary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn
from torch.nn.utils.rnn import pad_sequence

ALPHABET = " abcdefghijklmnopqrstuvwxyz0123456789'-.,?!;:"  # index + 1; anything else is the last symbol
N_SYMBOLS = len(ALPHABET) + 2  # with padding, 0


def spell(text: str) -> list[int]:
    """Symbols of a piece of text, upper and lower case alike: ' Hi' -> [1, 9, 10]; nothing counts as one blank."""
    return [ALPHABET.find(letter) + 1 or N_SYMBOLS - 1 for letter in text.lower()] or [1]


@dataclass(frozen=True)
class Letters:
    """The letters of a batch of texts. symbols: (B, L) as in `spell`, 0 = padding. lengths: (B,) letters of each text.

    tokens: (B, L) position 0 .. N - 1 of the token of each letter, -1 for padding.
    """

    symbols: torch.Tensor
    tokens: torch.Tensor
    lengths: torch.Tensor


class Spelling(nn.Module):
    """Letters as vectors that know their neighbours within the token: "t" in "th" is not "t" in "at".

    `table` (V, C) spells every token; it comes from `read_vocabulary` and is in no file of weights. Until then every
    token is a row of blanks.
    """

    def __init__(self, vocab_size: int, max_letters: int, d_model: int):
        """max_letters: C, further letters of a token are not read. d_model: D."""
        super().__init__()
        self.max_letters = max_letters
        # dev: spelled-text
        self.register_buffer("table", torch.ones(vocab_size, max_letters, dtype=torch.uint8), persistent=False)
        self.embedding = nn.Embedding(N_SYMBOLS, d_model, padding_idx=0)
        self.convs = nn.ModuleList(nn.Conv1d(d_model, d_model, 5, padding=2) for _ in range(2))

    def read_vocabulary(self, tokenizer: Tokenizer) -> None:
        """Spell every text token of a tokenizer; tokens beyond its vocabulary stay blank."""
        rows = torch.zeros(self.table.shape, dtype=torch.uint8)
        rows[:, 0] = 1
        for token in range(min(len(rows), tokenizer.get_vocab_size())):
            symbols = spell(tokenizer.decode([token]))[: self.max_letters]
            rows[token, : len(symbols)] = torch.tensor(symbols, dtype=torch.uint8)
        self.table.copy_(rows)

    def letters(self, text_ids: torch.Tensor, text_lengths: torch.Tensor) -> Letters:
        """Spell a batch of texts. text_ids: (B, N), padded with anything beyond text_lengths (B,)."""
        symbols = self.table[text_ids.clamp(min=0)].long()  # (B, N, C)
        inside = torch.arange(text_ids.shape[1], device=text_ids.device) < text_lengths[:, None]
        real = (symbols > 0) & inside[..., None]
        tokens = torch.arange(text_ids.shape[1], device=text_ids.device)[:, None].expand(real.shape[1:])  # (N, C)
        return Letters(
            pad_sequence([row[keep] for row, keep in zip(symbols, real, strict=True)], batch_first=True),
            pad_sequence([tokens[keep] for keep in real], batch_first=True, padding_value=-1),
            real.sum(dim=(1, 2)),
        )

    def forward(self, letters: Letters) -> torch.Tensor:
        """One vector per letter: (B, L, D)."""
        x = self.embedding(letters.symbols).transpose(1, 2)  # (B, D, L)
        for conv in self.convs:
            x = x + F.gelu(_within_tokens(conv, x, letters.tokens))
        return x.transpose(1, 2)


def _within_tokens(conv: nn.Conv1d, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """A convolution that sees no letters of other tokens, so that a text is read causally token by token."""
    reach = conv.kernel_size[0] // 2
    windows = F.pad(x, (reach, reach)).unfold(2, 2 * reach + 1, 1)  # (B, D, L, 5)
    numbers = F.pad(tokens, (reach, reach), value=-1).unfold(1, 2 * reach + 1, 1)  # (B, L, 5)
    same = (numbers == tokens[..., None])[:, None]  # (B, 1, L, 5)
    return torch.einsum("bdlk,edk->bel", windows * same, conv.weight) + conv.bias[:, None]
