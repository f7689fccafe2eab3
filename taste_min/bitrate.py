"""How many bits per second a text-aligned tokenizer spends (paper section 4.1, table 2).

Speech codes cost R * log2(K) bits per word; the transcript costs log2(V) bits per text token.
"""

import math
from dataclasses import dataclass

from .errors import TasteError


@dataclass(frozen=True)
class Bitrate:
    """All in bit/s. `total` is what the paper reports as about 150 bit/s."""

    codes: float
    text: float

    @property
    def total(self) -> float:
        return self.codes + self.text


def bitrate(
    words_per_second: float,
    tokens_per_second: float,
    n_quantizers: int = 4,
    codebook_size: int = 512,
    vocab_size: int = 51866,
) -> Bitrate:
    """Bit/s of TASTE codes and of their transcript, each symbol coded with a flat distribution.

    words_per_second, tokens_per_second: in 1/s, over the whole recording.
    Raises TasteError for negative rates or sizes below 1.
    """
    if min(words_per_second, tokens_per_second) < 0 or min(n_quantizers, codebook_size, vocab_size) < 1:
        raise TasteError("rates must be at least 0 and sizes at least 1.")
    codes = words_per_second * n_quantizers * math.log2(codebook_size)
    return Bitrate(codes=codes, text=tokens_per_second * math.log2(vocab_size))


def unit_bitrate(units_per_second: float, vocab_size: int) -> float:
    """Bit/s of a fixed-rate unit stream: 50 Hz S3 units from 4096 classes cost 600 bit/s."""
    return units_per_second * math.log2(vocab_size)
