"""The recogniser: its path search on made-up scores, a random tiny Whisper, and the real one on human speech."""

import itertools
import json

import numpy as np
import pytest
import torch
from byte_tokenizer import byte_tokenizer
from tokenizers import pre_tokenizers
from transformers import WhisperConfig, WhisperForConditionalGeneration

from taste_min import assets
from taste_min.asr import SpeechRecognizer, median_filter, monotonic_path
from taste_min.audio import SAMPLE_RATE, read_audio


def best_score(scores: np.ndarray) -> float:
    """Highest sum over all monotonic paths, by trying every one of them."""
    n, t = scores.shape
    best = -np.inf
    for steps in itertools.product([(1, 1), (1, 0), (0, 1)], repeat=n + t - 2):
        i = j = 0
        total, used = scores[0, 0], 0
        for di, dj in steps:
            if (i, j) == (n - 1, t - 1):
                break
            i, j, used = i + di, j + dj, used + 1
            if i >= n or j >= t:
                break
            total += scores[i, j]
        if (i, j) == (n - 1, t - 1):
            best = max(best, total)
    return best


def test_path_follows_the_bright_blocks():
    scores = np.full((3, 12), -1.0)
    scores[0, :5], scores[1, 5:7], scores[2, 7:] = 1, 1, 1
    assert monotonic_path(scores) == [0, 5, 7]
    assert monotonic_path(scores[:, ::-1]) != [0, 5, 7]


def test_path_is_optimal():
    rng = np.random.default_rng(0)
    for _ in range(5):
        scores = rng.normal(size=(3, 4))
        first = monotonic_path(scores)
        assert first[0] == 0
        assert first == sorted(first)
        # with the first frames fixed, the best last frames give the score of the path
        achieved = max(
            sum(scores[i, first[i] : end + 1].sum() for i, end in enumerate(ends))
            for ends in itertools.product(range(4), repeat=3)
            if ends[-1] == 3 and all(first[i] <= ends[i] <= first[i + 1] <= ends[i] + 1 for i in range(2))
        )
        assert achieved == pytest.approx(best_score(scores))


def test_median_filter_removes_spikes():
    x = torch.zeros(1, 20)
    x[0, 7] = 9.0
    x[0, 12:] = 1.0
    y = median_filter(x)
    assert y[0, 7] == 0
    assert torch.equal(y[0, 12:], x[0, 12:])


@pytest.fixture
def random_recognizer() -> SpeechRecognizer:
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    config = WhisperConfig(
        vocab_size=260, d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, pad_token_id=258, bos_token_id=258,
        eos_token_id=258, decoder_start_token_id=256,
    )  # fmt: skip
    whisper = WhisperForConditionalGeneration(config).eval()
    whisper.generation_config.alignment_heads = [[0, 1], [1, 2]]
    return SpeechRecognizer(whisper, tokenizer)


def test_times_of_known_words_cover_the_recording_in_order(random_recognizer):
    wav = torch.randn(2 * SAMPLE_RATE) * 0.1
    words = random_recognizer.locate(wav, ["one", "two", "three"])
    assert [word.text for word in words] == ["one", "two", "three"]
    edges = [edge for word in words for edge in (word.start, word.end)]
    assert edges == sorted(edges)
    assert 0 <= edges[0] <= edges[-1] <= 2.0
    assert random_recognizer.locate(wav, []) == []


def test_an_endless_repetition_is_cut_where_the_context_ends(random_recognizer, monkeypatch):
    loop = ["ah"] * 1000
    monkeypatch.setattr(random_recognizer, "_greedy", lambda states: loop)
    words = random_recognizer.transcribe(torch.randn(16000)).words
    assert 0 < len(words) < random_recognizer.decoder.config.n_positions


@pytest.mark.assets
def test_human_speech_of_two_windows_is_understood_and_located(mini_taste):
    """WER at most 10 % over the five LibriVox clips, word starts within 120 ms (median) of the packaged alignment."""
    import jiwer
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    recognizer, normalize = mini_taste.recognizer, BasicTextNormalizer()
    paths = sorted(assets.fetch("librivox").glob("*.wav"))
    clips, packaged = (
        [read_audio(path) for path in paths],
        [json.loads(p.with_suffix(".json").read_text()) for p in paths],
    )
    pause = torch.zeros(2 * SAMPLE_RATE)
    wav = torch.cat([part for clip in clips for part in (clip, pause)])
    heard = recognizer.transcribe(wav)
    assert len(wav) > 30 * SAMPLE_RATE and heard.words[-1].start > 30
    assert [word.start for word in heard.words] == sorted(word.start for word in heard.words)
    said = [normalize(clip["t"]) for clip in packaged]
    assert jiwer.wer(" ".join(said), normalize(heard.text)) <= 0.10
    assert jiwer.wer(" ".join(said[1:] + said[:1]), normalize(heard.text)) > 0.10  # clips in another order do not pass

    errors, spread = [], []
    for clip, true in list(zip(clips, packaged, strict=True))[:1]:
        true = [(w["t"].split("(")[0], w["b"]) for w in true["w"] if not w["t"].startswith("<")]
        words = recognizer.locate(clip, [text for text, _ in true])
        errors += [abs(word.start - start) for word, (_, start) in zip(words, true, strict=True)]
        step = len(clip) / SAMPLE_RATE / len(true)
        spread += [abs(index * step - start) for index, (_, start) in enumerate(true)]
    assert np.median(errors) <= 0.120
    assert np.median(spread) > 0.120  # words spread evenly over the clip would not pass
