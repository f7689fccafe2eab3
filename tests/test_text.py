"""Words and word ids."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from taste_min.errors import TasteError
from taste_min.text import load_tokenizer, split_words, tokenize


@pytest.fixture
def letters() -> Tokenizer:
    """One token per byte, so that a word of n letters has n + 1 tokens (the leading space counts)."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(sorted(alphabet))}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def test_every_token_knows_its_word(letters):
    text = tokenize(letters, ["ab", "c", "déf"])
    assert text.word_ids.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2, 2]  # é is two bytes
    assert letters.decode(text.token_ids.tolist()).replace(" ", "").replace("Ġ", "").startswith("abc")


def test_white_space_of_any_kind_separates_words():
    assert split_words("  one\ttwo \n three  ") == ["one", "two", "three"]
    assert split_words(" \n ") == []


def test_no_words_is_an_error(letters):
    with pytest.raises(TasteError, match="no words"):
        tokenize(letters, [])


def test_missing_and_damaged_tokenizer_files(tmp_path):
    with pytest.raises(TasteError, match="no tokenizer.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{]")
    with pytest.raises(TasteError, match="not a tokenizer file"):
        load_tokenizer(tmp_path)
