"""The bit-rate formula against the paper's numbers."""

import math

import pytest

from taste_min.bitrate import bitrate, unit_bitrate
from taste_min.errors import TasteError


def test_the_papers_150_bits_per_second():
    """2.70 words/s x 36 bit = 97 bit/s of codes; about 50 bit/s of text."""
    rate = bitrate(words_per_second=2.70, tokens_per_second=50 / math.log2(51866))
    assert rate.codes == pytest.approx(97.2)
    assert 146 <= rate.total <= 150
    assert not 146 <= bitrate(2.70, 3.2, n_quantizers=8).total <= 150


def test_fixed_rate_units():
    assert unit_bitrate(50, 4096) == 600
    assert unit_bitrate(75, 1024) * 4 == 3000  # Encodec with four codebooks


def test_nonsense_is_refused():
    with pytest.raises(TasteError):
        bitrate(-1, 3)
    with pytest.raises(TasteError):
        bitrate(2.7, 3, codebook_size=0)
