"""Attention against word times: values that can be checked by hand."""

import numpy as np
import pytest

from taste_min import alignment
from taste_min.align import Word

WORDS = [Word("a", 0.0, 0.04), Word("big", 0.04, 0.10), Word("dog", 0.13, 0.2)]
SPANS = alignment.word_spans(WORDS)  # frames 0-1, 2-4, 6.5-9
T = 12


def at(*frames):
    """Rows of attention, all on one frame each."""
    return np.eye(T)[list(frames)]


def test_frame_shares_cut_frames_at_word_borders():
    shares = alignment.frame_shares(SPANS, T)
    np.testing.assert_allclose(shares[0], [1, 1] + [0] * 10, atol=1e-9)
    np.testing.assert_allclose(shares[2], [0] * 6 + [0.5, 1, 1, 1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(shares.sum(axis=1) * 0.02, SPANS[:, 1] - SPANS[:, 0])  # nothing lost


def test_word_rows_takes_the_last_token_of_each_word():
    maps = np.arange(2 * 5 * T).reshape(2, 5, T)
    rows = alignment.word_rows(maps, np.array([0, 0, 1, 2, 2]))
    np.testing.assert_array_equal(rows, maps[:, [1, 2, 4]])


def test_perfect_attention_scores_one_and_attention_elsewhere_zero():
    np.testing.assert_allclose(alignment.mass_inside(at(0, 3, 8), SPANS), 1)
    np.testing.assert_allclose(alignment.mass_inside(at(3, 8, 0), SPANS), 0)
    assert alignment.mass_inside(np.stack([at(0, 3, 8)] * 4), SPANS).shape == (4, 3)


def test_mass_on_padding_counts_against_the_word_but_does_not_move_the_centre():
    rows = 0.5 * at(0, 3, 8) + 0.5 * at(11, 11, 11)
    np.testing.assert_allclose(alignment.mass_inside(rows, SPANS), 0.5)
    np.testing.assert_allclose(alignment.centre_of_mass(rows, 10), [0.01, 0.07, 0.17])
    assert (alignment.centre_of_mass(rows, T) > [0.02, 0.08, 0.18]).all()  # what the cut prevents


def test_centre_error_is_the_distance_to_the_middle_of_the_word():
    np.testing.assert_allclose(alignment.centre_error(at(1, 3, 5), SPANS, T), [0.01, 0.0, 0.055], atol=1e-9)


def test_forward_steps_of_a_staircase_and_of_its_reverse():
    centres = alignment.centre_of_mass(at(0, 3, 8), T)
    assert alignment.forward_steps(centres).all()
    assert not alignment.forward_steps(centres[::-1]).any()


def test_next_word_undoes_a_shift_of_one():
    ahead = at(3, 8, 8)  # each row on the following word
    assert alignment.mass_inside(ahead, SPANS)[:2].sum() == 0
    np.testing.assert_allclose(alignment.mass_inside(*alignment.next_word(ahead, SPANS)), 1)


def test_uniform_attention_puts_a_words_share_of_the_recording_inside_it():
    rows = alignment.uniform_attention(3, 10, T)
    np.testing.assert_allclose(rows.sum(axis=1), 1)
    np.testing.assert_allclose(alignment.mass_inside(rows, SPANS), (SPANS[:, 1] - SPANS[:, 0]) / 0.2)
    assert alignment.centre_of_mass(rows, 10) == pytest.approx([0.1] * 3)
