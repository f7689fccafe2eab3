"""TASTE end to end on real speech, and its file format."""

import pytest
import torch

from taste_min import assets
from taste_min.audio import SAMPLE_RATE, read_audio
from taste_min.errors import TasteError
from taste_min.text import Word
from taste_min.tokenizer import Taste, TasteTokens

TOKENS = TasteTokens(
    text="hello world",
    words=[Word("hello", 0.1, 0.5), Word("world", 0.5, 1.0)],
    codes=torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]),
    embeddings=torch.randn(2, 32),
    n_text_tokens=3,
    seconds=1.0,
)


def test_tokens_survive_a_file(tmp_path):
    TOKENS.save(tmp_path / "a.safetensors")
    loaded = TasteTokens.load(tmp_path / "a.safetensors")
    assert (loaded.text, loaded.words, loaded.seconds) == (TOKENS.text, TOKENS.words, TOKENS.seconds)
    assert torch.equal(loaded.codes, TOKENS.codes)
    assert torch.equal(loaded.embeddings, TOKENS.embeddings)


def test_bit_rate_of_tokens_counts_words_and_text():
    rate = TOKENS.bitrate(vocab_size=2**16)
    assert rate.codes == 2 * 36
    assert rate.text == 3 * 16


def test_foreign_token_files_are_refused(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"no")
    with pytest.raises(TasteError, match="not a file of TASTE tokens"):
        TasteTokens.load(tmp_path / "a.safetensors")
    with pytest.raises(TasteError, match="not a file of TASTE tokens"):
        TasteTokens.load(tmp_path / "missing.safetensors")


def test_unknown_model_names_are_refused():
    with pytest.raises(TasteError, match="no pretrained model"):
        Taste.from_pretrained("other")


@pytest.fixture(scope="module")
def taste() -> Taste:
    return Taste.from_pretrained("mini")


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    return read_audio(sorted(assets.fetch("librivox").glob("*.wav"))[1])


@pytest.mark.assets
def test_one_row_of_codes_per_word(taste, clip):
    tokens = taste.encode(clip)
    assert tokens.codes.shape == (len(tokens.words), 4)
    assert tokens.text.split() == [word.text for word in tokens.words]
    assert ((tokens.codes >= 0) & (tokens.codes < 512)).all()
    torch.testing.assert_close(taste.quantizer.decode(tokens.codes), tokens.embeddings, atol=1e-4, rtol=1e-4)
    assert torch.equal(taste.encode(clip).codes, tokens.codes)


@pytest.mark.assets
def test_codes_carry_more_than_the_text(taste, clip):
    """The same words at another speed (and pitch: the recording is stretched) give other codes."""
    text = "he was not an ill disposed young man"
    slow = torch.nn.functional.interpolate(clip[None, None], scale_factor=1.25, mode="linear")[0, 0]
    assert not torch.equal(taste.encode(clip, text).codes, taste.encode(slow, text).codes)


@pytest.mark.assets
def test_the_quantizer_sees_different_words(taste, clip):
    codes = taste.encode(clip).codes
    assert len({tuple(row.tolist()) for row in codes}) > len(codes) // 2


@pytest.mark.assets
def test_long_recordings_are_encoded_window_by_window(taste, clip):
    wav = torch.cat([clip, torch.zeros(SAMPLE_RATE)] * 9)
    tokens = taste.encode(wav)
    assert len(wav) > 30 * SAMPLE_RATE
    assert tokens.codes.shape[0] == len(tokens.words) == len(tokens.text.split())
    assert tokens.words[-1].start > 30
    with pytest.raises(TasteError, match="at most 30 s"):
        taste.encode(wav, "he was not an ill disposed young man")


@pytest.mark.assets
def test_no_words(taste, clip):
    with pytest.raises(TasteError, match="no words"):
        taste.encode(clip, "  ")
    with pytest.raises(TasteError, match="silent"):
        taste.encode(torch.zeros(SAMPLE_RATE))
