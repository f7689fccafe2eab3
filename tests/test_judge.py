"""The judge on a random tiny Whisper, and on human speech."""

import pytest
import torch
from byte_tokenizer import byte_tokenizer
from transformers import WhisperConfig, WhisperForConditionalGeneration

from taste_min import assets
from taste_min.audio import SAMPLE_RATE
from taste_min.errors import TasteError
from taste_min.judge import Judge, token_limit
from taste_min.metrics import word_errors
from taste_min.recordings import read_recordings


@pytest.fixture(scope="module")
def random_judge() -> Judge:
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = WhisperConfig(
        vocab_size=260, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, pad_token_id=258, bos_token_id=258,
        eos_token_id=258, decoder_start_token_id=256,
    )  # fmt: skip
    whisper = WhisperForConditionalGeneration(config)
    whisper.generation_config.begin_suppress_tokens = whisper.generation_config.suppress_tokens = None
    return Judge(whisper, tokenizer)


def test_endless_babble_is_cut_by_the_length_of_the_recording(random_judge):
    wavs = [torch.randn(seconds * SAMPLE_RATE) * 0.1 for seconds in (1, 3)]
    counts = [len(text.split()) for text in random_judge.transcribe(wavs)]  # its tokens are joined by spaces
    assert [token_limit(len(wav)) for wav in wavs] == [18, 34]
    assert counts == [18, 34]  # random weights never stop: the limit of each recording stopped them
    assert random_judge.transcribe([]) == []


def test_a_batch_hears_what_single_recordings_give(random_judge):
    wavs = [torch.randn(n, generator=torch.Generator().manual_seed(n)) * 0.1 for n in (8000, 16000)]
    assert random_judge.transcribe(wavs) == [random_judge.transcribe([wav])[0] for wav in wavs]


def test_too_long_and_unknown(random_judge):
    with pytest.raises(TasteError, match="30 s"):
        random_judge.transcribe([torch.zeros(31 * SAMPLE_RATE)])
    with pytest.raises(TasteError, match="no judge 'large'"):
        Judge.load("large")


@pytest.mark.assets
def test_human_clips_are_understood():
    assets.fetch("whisper-tiny-en")
    clips = read_recordings("human")[:3]
    heard = Judge.load("tiny.en").transcribe([clip.load() for clip in clips])
    counts = [word_errors(clip.text, text) for clip, text in zip(clips, heard, strict=True)]
    assert sum(c.errors for c in counts) / sum(c.words for c in counts) <= 0.10
    wrong = [word_errors(clip.text, text) for clip, text in zip(clips, heard[1:] + heard[:1], strict=True)]
    assert sum(c.errors for c in wrong) / sum(c.words for c in wrong) > 0.5  # transcripts of other clips
