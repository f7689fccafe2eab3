"""What is measured on one utterance: words heard, word durations, pitch and loudness, predicted quality, the speaker.

These are the metrics of the paper's reconstruction table (section 4.2) in the definitions that reproduce its columns on
published audio: DNSMOS is the P.808 head, a word lasts from its onset to the next onset, and a duration is consistent
when it differs by at most 50 ms. Word pitch and word energy are not in the paper; they show best what text alone lacks.
All recordings are 16 kHz here.

Axes: S samples, W words, F pitch frames.
"""

import functools
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from .align import align
from .audio import SAMPLE_RATE
from .errors import TasteError
from .text import Word

TOLERANCES = (0.050, 0.025)  # seconds
PITCH_RANGE = (70.0, 600.0)  # Hz
PITCH_HOP, PITCH_WINDOW = 160, 1024  # samples
MIN_VOICED = 4  # frames of 10 ms: fewer say nothing about the pitch of a word
MOS_SECONDS, MOS_FFT, MOS_HOP, MOS_BANDS = 9.01, 321, 160, 120  # what the P.808 network was trained on


def _missing(package: str) -> TasteError:
    return TasteError(f"evaluation needs {package}; run `pip install 'taste_min[metrics]'`.")


@functools.cache
def _normalizer():
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    return BasicTextNormalizer()


def normalize(text: str) -> str:
    """transformers' basic normaliser: lower case, no punctuation, nothing in brackets, single spaces.

    It leaves numbers and abbreviations as they are: a judge that writes `2` or `Mr.` for a spoken `two` or `mister`
    is counted as wrong, on the original as on every system, so word error rates are upper bounds.
    """
    return _normalizer()(text).strip()


@dataclass(frozen=True)
class WordErrors:
    """Substitutions, deletions and insertions against the number of reference words."""

    errors: int
    words: int


def word_errors(reference: str, heard: str) -> WordErrors:
    """Compare two normalised texts word by word. Raises TasteError when the reference has no words."""
    try:
        import jiwer
    except ImportError as error:
        raise _missing("jiwer") from error
    reference, heard = normalize(reference), normalize(heard)
    if not reference:
        raise TasteError("the text has no words to compare with; give the transcript of the recording.")
    found = jiwer.process_words(reference, heard)
    return WordErrors(found.substitutions + found.deletions + found.insertions, len(reference.split()))


def word_times(wav: torch.Tensor, text: str) -> list[Word] | None:
    """Forced alignment of a recording (S,), or None when the text cannot be found in it (speech that broke down).

    The recording is aligned as it is; the aligner's padding, which moves boundaries, is only the second try.
    """
    for padded in (False, True):
        try:
            return align(wav, text, padded=padded)
        except TasteError:
            continue
    return None


def pitch(wav: torch.Tensor) -> np.ndarray:
    """F0 of a recording (S,) every 10 ms in Hz, 0 where there is no voice: (F,). Probabilistic YIN (Mauch 2014)."""
    try:
        import librosa
    except ImportError as error:
        raise _missing("librosa") from error
    low, high = PITCH_RANGE
    samples = wav.numpy()
    f0, voiced, _ = librosa.pyin(
        samples, fmin=low, fmax=high, sr=SAMPLE_RATE, frame_length=PITCH_WINDOW, hop_length=PITCH_HOP
    )
    return np.where(voiced, f0, 0.0)


@dataclass(frozen=True)
class WordSound:
    """How each word is said, all (W,): seconds from its onset to the next (the last: to its own end), median natural
    log of F0 in Hz, loudness in dB. NaN where a word has no voice or no sound."""

    seconds: np.ndarray
    log_f0: np.ndarray
    energy: np.ndarray


def word_sound(wav: torch.Tensor, words: list[Word]) -> WordSound:
    """Measure every word of a recording (S,) at its times."""
    onsets = [word.start for word in words]
    seconds = np.diff([*onsets, words[-1].end])
    f0 = pitch(wav)
    times = np.arange(len(f0)) * PITCH_HOP / SAMPLE_RATE
    log_f0, energy = np.full(len(words), np.nan), np.full(len(words), np.nan)
    for i, word in enumerate(words):
        voiced = f0[(times >= word.start) & (times < word.end)]
        voiced = voiced[voiced > 0]
        if len(voiced) >= MIN_VOICED:
            log_f0[i] = np.median(np.log(voiced))
        power = wav[round(word.start * SAMPLE_RATE) : round(word.end * SAMPLE_RATE)].square().mean()
        if power > 0:  # nan for a word without duration
            energy[i] = 10 * float(torch.log10(power))
    return WordSound(seconds, log_f0, energy)


def consistent(original: np.ndarray, spoken: np.ndarray, tolerance: float) -> int:
    """How many words (W,) have durations that differ by at most `tolerance` seconds."""
    return int(np.sum(np.abs(original - spoken) <= tolerance + 1e-6))


def centred_products(original: np.ndarray, spoken: np.ndarray) -> tuple[float, float, float]:
    """Sums (xy, xx, yy) of word values (W,) minus their mean over the utterance; words that lack a value are left out.

    Centred, because the question is how words differ within an utterance, not whether the voice is high or low. Added
    up over utterances they give Pearson's correlation over all words (bootstrap.correlation).
    """
    both = np.isfinite(original) & np.isfinite(spoken)
    if both.sum() < 2:
        return 0.0, 0.0, 0.0
    x, y = original[both] - original[both].mean(), spoken[both] - spoken[both].mean()
    return float(x @ y), float(x @ x), float(y @ y)


@functools.cache
def _p808():
    """The P.808 network of DNSMOS (Reddy et al. 2021), which the speechmos package carries."""
    try:
        import onnxruntime
    except ImportError as error:
        raise _missing("onnxruntime") from error
    package = find_spec("speechmos")
    if package is None:
        raise _missing("speechmos")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # a small network: more threads only wait for each other
    path = Path(package.origin).parent / "dnsmos_models" / "model_v8.onnx"
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def dnsmos_p808(wav: torch.Tensor) -> float:
    """Predicted quality of a recording (S,) on a scale from 1 to 5: the mean over windows of 9 s, one per second.

    Shorter recordings are repeated until they fill a window, as in speechmos. A model trained on noise suppression:
    it prefers clean synthetic speech to human recordings, so it never leads.
    """
    try:
        import librosa
    except ImportError as error:
        raise _missing("librosa") from error
    samples, length = wav.clamp(-1, 1).numpy(), int(MOS_SECONDS * SAMPLE_RATE)
    while len(samples) < length:
        samples = np.append(samples, samples)
    network, scores = _p808(), []
    for start in range(0, len(samples) - length + 1, SAMPLE_RATE):
        mel = librosa.feature.melspectrogram(
            y=samples[start : start + length - MOS_HOP],
            sr=SAMPLE_RATE,
            n_fft=MOS_FFT,
            hop_length=MOS_HOP,
            n_mels=MOS_BANDS,
        )
        level = (librosa.power_to_db(mel, ref=np.max) + 40) / 40  # (bands, frames)
        scores.append(network.run(None, {"input_1": level.T[None].astype(np.float32)})[0].item())
    return float(np.mean(scores))
