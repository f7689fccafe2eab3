"""TASTE tokens: their file, the pieces they are spoken in, and exchanging words."""

from dataclasses import replace

import pytest
import torch
from fake_taste import tokens_of
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from taste_min.errors import TasteError
from taste_min.tokens import TENSORS, TasteTokens, spoken

TOKENS = tokens_of("hello, big world")


def rewrite(path, change):
    """Change the tensors of a file and keep its metadata."""
    with safe_open(str(path), "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, str(path), metadata=metadata)


def test_tokens_survive_a_file(tmp_path):
    TOKENS.save(tmp_path / "a.safetensors")
    loaded = TasteTokens.load(tmp_path / "a.safetensors")
    for name in ("text", "words", "n_text_tokens", "seconds"):
        assert getattr(loaded, name) == getattr(TOKENS, name)
    for name in TENSORS:
        assert torch.equal(getattr(loaded, name), getattr(TOKENS, name))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]  # no partial file


def test_rows_of_a_larger_tensor_are_saved(tmp_path):
    columns = replace(TOKENS, codes=torch.arange(12).reshape(4, 3).T)
    columns.save(tmp_path / "a.safetensors")
    assert torch.equal(TasteTokens.load(tmp_path / "a.safetensors").codes, columns.codes)


def test_foreign_damaged_and_old_files_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(TasteError, match="not a file of TASTE tokens"):
        TasteTokens.load(path)
    path.write_bytes(b"no")
    with pytest.raises(TasteError, match="not a file of TASTE tokens"):
        TasteTokens.load(path)
    save_file({"codes": TOKENS.codes}, str(path))
    with pytest.raises(TasteError, match="not a file of TASTE tokens"):
        TasteTokens.load(path)
    TOKENS.save(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(TasteError, match="not a file of TASTE tokens"):
        TasteTokens.load(path)
    TOKENS.save(path)
    rewrite(path, lambda tensors: tensors.update(codes=tensors["codes"][:2].clone()))
    with pytest.raises(TasteError, match="not a file of TASTE tokens"):
        TasteTokens.load(path)
    TOKENS.save(path)
    rewrite(path, lambda tensors: tensors.pop("speaker_embedding"))
    with pytest.raises(TasteError, match="older version .*speaker_embedding.*encode again"):
        TasteTokens.load(path)


def test_bit_rate_of_tokens_counts_words_and_text():
    rate = TOKENS.bitrate(vocab_size=2**16)
    assert rate.codes == pytest.approx(3 * 36)
    assert rate.text == 6 * 16


def test_pieces_are_whole_words_within_the_limit_and_end_with_sentences():
    tokens = tokens_of("one two three. four five six seven eight. nine ten", seconds=10.0)  # a word per second
    assert tokens.pieces() == [slice(0, 10)]
    assert tokens.pieces(6.0) == [slice(0, 3), slice(3, 8), slice(8, 10)]
    plain = tokens_of("a b c d e f g", seconds=7.0)
    assert plain.pieces(3.0) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert plain.pieces(0.5) == [slice(i, i + 1) for i in range(7)]  # a word is never cut


def test_words_compare_without_case_and_punctuation():
    assert spoken("Don't,") == spoken("dont") == "dont"
    assert spoken("big") != spoken("bag")


def test_swap_changes_those_words_only():
    donor = tokens_of("Hello big world!", seconds=2.0, seed=1)
    before = replace(TOKENS, codes=TOKENS.codes.clone(), embeddings=TOKENS.embeddings.clone())
    swapped = TOKENS.swap(donor, [0, 2])
    for name in ("codes", "embeddings"):
        ours, theirs, result = getattr(TOKENS, name), getattr(donor, name), getattr(swapped, name)
        assert torch.equal(result[[0, 2]], theirs[[0, 2]]) and torch.equal(result[1], ours[1])
        assert not torch.equal(result[[0, 2]], ours[[0, 2]])
        assert torch.equal(ours, getattr(before, name))  # the original is as it was
    assert (swapped.text, swapped.words, swapped.seconds) == (TOKENS.text, TOKENS.words, TOKENS.seconds)
    assert torch.equal(swapped.speaker_embedding, TOKENS.speaker_embedding)
    back = swapped.swap(TOKENS, [0, 2])
    assert torch.equal(back.codes, TOKENS.codes)


def test_stretches_become_one_recording():
    other = replace(tokens_of("big bear", seconds=3.0, seed=1), speaker_embedding=-TOKENS.speaker_embedding / 2)
    silence = replace(TOKENS, text="", words=[], codes=TOKENS.codes[:0], embeddings=TOKENS.embeddings[:0])
    silence = replace(silence, seconds=2.0, n_text_tokens=0, speaker_embedding=torch.zeros(256))
    whole = TasteTokens.concatenate([TOKENS, silence, other])
    assert whole.text == f"{TOKENS.text} {other.text}" and whole.seconds == TOKENS.seconds + 5
    assert whole.words[:3] == TOKENS.words
    start = TOKENS.seconds + 2
    assert [(w.start - start, w.end - start) for w in whole.words[3:]] == [(w.start, w.end) for w in other.words]
    assert torch.equal(whole.codes, torch.cat([TOKENS.codes, other.codes]))
    assert torch.equal(whole.embeddings, torch.cat([TOKENS.embeddings, other.embeddings]))
    assert whole.n_text_tokens == TOKENS.n_text_tokens + other.n_text_tokens
    torch.testing.assert_close(whole.speaker_embedding, TOKENS.speaker_embedding)
    assert TasteTokens.concatenate([TOKENS]) is TOKENS
    for parts in ([], [TOKENS, replace(other, embeddings=other.embeddings[:, :16])]):
        with pytest.raises(TasteError, match="come from one model"):
            TasteTokens.concatenate(parts)


def test_swap_takes_words_from_other_places():
    donor = tokens_of("the world is big", seed=1)
    swapped = TOKENS.swap(donor, [1, 2], [3, 1])
    assert torch.equal(swapped.codes[[1, 2]], donor.codes[[3, 1]])


def test_swap_refuses_other_words_numbers_and_models():
    donor = tokens_of("hello big bear", seed=1)
    with pytest.raises(TasteError, match="'world' and word 2 of the other is 'bear'"):
        TOKENS.swap(donor, [0, 2])
    with pytest.raises(TasteError, match="no word 3 in 'hello, big world'; its words are 0 to 2"):
        TOKENS.swap(donor, [3])
    with pytest.raises(TasteError, match="no word -1"):
        TOKENS.swap(donor, [-1])
    with pytest.raises(TasteError, match="as many"):
        TOKENS.swap(donor, [0, 1], [0])
    with pytest.raises(TasteError, match="different models"):
        TOKENS.swap(replace(donor, embeddings=donor.embeddings[:, :16]), [0])
