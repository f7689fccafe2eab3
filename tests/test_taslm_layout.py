"""The layout of text and speech on one axis: worked examples, then properties."""

import pytest
import torch

from taste_min.errors import TasteError
from taste_min.taslm_layout import collate, layout

SOS = 99
WORDS = [0, 0, 1, 2, 2, 3]


def lay(words, delay, level="word", n_quantizers=2):
    """Token i has id 10 + i, word k has codes (k, k, ...)."""
    n_words = max(words) + 1
    codes = torch.arange(n_words)[:, None].expand(-1, n_quantizers)
    return layout(10 + torch.arange(len(words)), torch.tensor(words), codes, SOS, delay, level)


@pytest.mark.parametrize(
    ("words", "delay", "level", "speech", "labels"),
    [
        (WORDS, 1, "word", [-1, -1, 0, 1, 1, 2, 3], [-1, -1, 0, 1, -1, 2, 3, -1]),
        (WORDS, 2, "word", [-1, -1, -1, 0, 0, 1, 2, 3], [-1, -1, -1, 0, -1, 1, 2, 3, -1]),
        (WORDS, 1, "token", [-1, 0, 0, 1, 2, 2, 3], [-1, 0, -1, 1, 2, -1, 3, -1]),
        (WORDS, 0, "word", [0, 0, 1, 2, 2, 3], [0, -1, 1, 2, -1, 3, -1]),
        ([0, 0], 1, "word", [-1, -1, 0], [-1, -1, 0, -1]),  # one word
        ([0, 1], 3, "word", [-1, -1, -1, 0, 1], [-1, -1, -1, 0, 1, -1]),  # fewer words than the delay
    ],
)
def test_worked_examples(words, delay, level, speech, labels):
    result = lay(words, delay, level)
    assert result.codes[1:, 0].tolist() == speech
    assert result.taste_labels[:, 1].tolist() == labels
    text = [10 + i for i in range(len(words))]
    assert result.token_ids.tolist() == [SOS, *text] + [-1] * delay
    assert result.text_labels.tolist() == text + [-1] * (delay + 1)


@pytest.mark.parametrize("delay", [0, 1, 2, 3])
@pytest.mark.parametrize("level", ["word", "token"])
def test_every_word_is_a_label_once_and_enters_right_after(delay, level):
    generator = torch.Generator().manual_seed(delay)
    for _ in range(20):
        n_words = int(torch.randint(1, 7, (1,), generator=generator))
        lengths = torch.randint(1, 4, (n_words,), generator=generator)
        words = torch.arange(n_words).repeat_interleave(lengths).tolist()
        result = lay(words, delay, level)
        labels = result.taste_labels[:, 0]
        assert labels[labels >= 0].tolist() == list(range(n_words))
        at = (labels >= 0).nonzero()[:, 0]
        assert torch.equal(result.codes[at + 1], result.taste_labels[at])
        if level == "word":
            for position, word in enumerate(words, start=1):
                assert result.codes[position, 0] == max(word - delay, -1)


def test_batches_are_padded_without_labels_and_the_originals_defect_is_a_switch():
    layouts = [lay(WORDS, 1), lay([0, 1, 1], 1), lay([0, 0], 1)]
    batch, original = collate(layouts), collate(layouts, spurious_labels=True)
    assert batch.mask.sum(1).tolist() == [8, 5, 4]
    assert batch.token_ids.shape == batch.text_labels.shape == (3, 8)
    assert batch.codes.shape == batch.taste_labels.shape == (3, 8, 2)
    assert batch.text_labels[1].tolist() == [10, 11, 12, -1, -1, -1, -1, -1]
    assert original.text_labels[0].tolist() == batch.text_labels[0].tolist()
    assert original.text_labels[1].tolist() == [10, 11, 12, 0, 0, -1, -1, -1]
    assert original.text_labels[2].tolist() == [10, 11, 0, 0, -1, -1, -1, -1]
    assert (batch.taste_labels[~batch.mask] == -1).all()
    zeros = layout(torch.zeros(3).long(), torch.arange(3), torch.zeros(3, 2).long(), SOS)  # token 0 is a label too
    assert collate([zeros, lay([0], 1)], spurious_labels=True).text_labels[1].tolist() == [10, 0, 0, -1, -1]


@pytest.mark.parametrize("words", [[1, 1, 2], [0, 2], [0, 1, 0], [0, 0, 1, 1, 2, 2], []])
def test_word_indices_that_do_not_match_the_codes_are_refused(words):
    with pytest.raises(TasteError, match="word index"):
        layout(torch.arange(len(words)), torch.tensor(words, dtype=torch.long), torch.zeros(2, 4).long(), SOS)


def test_every_token_needs_its_word_and_the_delay_is_one_word_unless_given():
    with pytest.raises(TasteError, match="word index"):
        layout(torch.arange(3), torch.tensor([0, 1]), torch.zeros(2, 4).long(), SOS)
    codes = torch.tensor([[0, 0], [1, 1]])
    default = layout(10 + torch.arange(3), torch.tensor([0, 1, 1]), codes, SOS)
    assert all(torch.equal(a, b) for a, b in zip(lay([0, 1, 1], 1), default, strict=True))
