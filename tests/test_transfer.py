"""Transfer coefficients of edits made up for it."""

import numpy as np
import pytest

from taste_min.errors import TasteError
from taste_min.transfer import coefficients, log_seconds, read_swapped, split


def test_one_is_the_donor_and_zero_the_host():
    host, donor = np.log([0.2, 0.3, 0.4, 0.5]), np.log([0.4, 0.2, 0.41, np.nan])
    assert coefficients(host, donor, donor)[:2] == pytest.approx([1, 1])
    assert coefficients(host, donor, host)[:2] == pytest.approx([0, 0])
    assert coefficients(host, donor, (host + donor) / 2)[:2] == pytest.approx([0.5, 0.5])
    assert coefficients(host, donor, 2 * host - donor)[:2] == pytest.approx([-1, -1])
    assert np.isnan(coefficients(host, donor, donor)[2:]).all()  # 2.5 % apart; no value


def test_words_that_lack_a_value_have_no_coefficient():
    missing = np.array([np.nan, 1.0, 1.0])
    assert np.isnan(coefficients(missing, np.zeros(3), np.zeros(3))[0])
    assert np.isnan(coefficients(np.zeros(3), np.ones(3), missing)[0])
    assert np.isnan(log_seconds(np.array([0.0, -1.0]))).all() and log_seconds(np.array([1.0]))[0] == 0


def test_swapped_words_and_the_others():
    inside, outside = split(np.array([1.0, np.nan, 0.9, 0.1, np.nan]), (0, 1, 2))
    assert inside.tolist() == [1.0, 0.9] and outside.tolist() == [0.1]


def test_the_column_swapped():
    assert read_swapped("0-2,14", 22) == (0, 1, 2, 14)
    assert read_swapped(" 3, 1 ", 4) == (1, 3)
    for text in ("", "a", "1-", "-1", "1;2", "0-"):
        with pytest.raises(TasteError, match="word numbers from 0"):
            read_swapped(text, 4)
    for text in ("2-1", "4", "0-4"):
        with pytest.raises(TasteError, match="words 0 to 3"):
            read_swapped(text, 4)
