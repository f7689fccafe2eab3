"""What is true of every encoder frame of a recording: pitch, loudness, phone, place in the word.

These are the targets of the linear probes in chapter 1 ("which layer holds the voice, and which the words?"), a
question the paper answers by choosing a shallow layer for the values (section 3.1.2). All labels share the encoder's
grid: frame t covers the time from 0.02 t to 0.02 (t + 1) seconds.

Axes: S samples at 16 kHz, T encoder frames (50 per second), W words.
"""

import functools
from dataclasses import dataclass

import numpy as np
import pocketsphinx

from .align import SAMPLE_RATE, Word, lookup
from .pronounce import pronounce, spoken_form

HOP = 320  # samples per encoder frame
FRAME_SECONDS = HOP / SAMPLE_RATE
SILENCE = "SIL"
PHONE_FRAME_RATES = (100, 160, 130, 200)  # tried in this order


@dataclass(frozen=True)
class Phone:
    """One speech sound in the ARPAbet of the CMU dictionary, with its time in seconds and the index of its word."""

    label: str
    start: float
    end: float
    word: int


def n_frames(n_samples: int) -> int:
    """Encoder frames that a recording reaches into; the rest of the 30 s window is padding."""
    return -(-n_samples // HOP)


def frame_times(count: int) -> np.ndarray:
    """Centres of the first `count` encoder frames in seconds: (T,)."""
    return (np.arange(count) + 0.5) * FRAME_SECONDS


def _windows(wav: np.ndarray, size: int) -> np.ndarray:
    """Pieces of `size` samples centred on the encoder frames: (T, size)."""
    before = (size - HOP) // 2
    padded = np.pad(wav, (before, size + HOP))
    return np.lib.stride_tricks.sliding_window_view(padded, size)[::HOP][: n_frames(len(wav))]


def pitch(
    wav: np.ndarray, low: float = 60.0, high: float = 400.0, threshold: float = 0.6, range_db: float = 25.0
) -> np.ndarray:
    """Fundamental frequency of `wav (S,)` per frame in Hz, 0 where there is no voice: (T,).

    The normalised correlation of 30 ms of a voiced sound with themselves one period later is close to 1.
    The first lag whose correlation reaches nine tenths of the best one is the period (later ones are its multiples).
    Frames below `threshold`, or `range_db` under the loudest (below 900 Hz), count as unvoiced, which also drops
    fricatives; a running median removes single errors.
    """
    size, first, last = 480, int(SAMPLE_RATE / high), int(SAMPLE_RATE / low)
    spectrum = np.fft.rfft(np.asarray(wav, dtype=np.float64))
    spectrum[np.fft.rfftfreq(len(wav), 1 / SAMPLE_RATE) > 900] = 0  # formants would pass for short periods
    pieces = _windows(np.fft.irfft(spectrum, len(wav)), size + last)  # (T, size + last)
    fft_size = 1 << (size + last).bit_length()
    head = np.fft.rfft(pieces[:, :size], fft_size)
    products = np.fft.irfft(np.conj(head) * np.fft.rfft(pieces, fft_size), fft_size)[:, : last + 1]  # (T, lags)
    power = np.cumsum(np.pad(pieces**2, ((0, 0), (1, 0))), axis=1)
    power = power[:, size : size + last + 1] - power[:, : last + 1]  # energy of the piece that starts at each lag
    correlation = products / np.sqrt(power[:, :1] * power + 1e-12)  # (T, lags), within [-1, 1]

    middle = correlation[:, 1:-1]
    peaks = np.where((middle >= correlation[:, :-2]) & (middle > correlation[:, 2:]), middle, 0.0)
    peaks[:, : first - 1] = 0.0  # lags shorter than the highest pitch
    best = peaks.max(axis=1)
    lags = 1 + np.argmax(peaks >= 0.9 * best[:, None], axis=1)  # (T,)
    left, here, right = (correlation[np.arange(len(lags)), lags + step] for step in (-1, 0, 1))
    bend = left - 2 * here + right
    lags = lags + np.where(bend < 0, 0.5 * (left - right) / np.where(bend < 0, bend, 1.0), 0.0)  # parabola through 3
    voiced = (best > threshold) & (power[:, 0] > 10 ** (-range_db / 10) * power[:, 0].max())
    track = np.where(voiced, SAMPLE_RATE / lags, 0.0)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(track, 2), 5)  # (T, 5)
    return np.where(voiced, np.median(around, axis=1), 0.0)


def loudness(wav: np.ndarray, floor: float = -60.0) -> np.ndarray:
    """RMS level of `wav (S,)` per frame in dB relative to its loudest frame, not below `floor`: (T,)."""
    level = np.sqrt((_windows(np.asarray(wav, dtype=np.float64), 400) ** 2).mean(axis=1)) + 1e-12
    return np.maximum(20 * np.log10(level / level.max()), floor)


@functools.cache
def _phone_decoder(frame_rate: int) -> pocketsphinx.Decoder:
    return pocketsphinx.Decoder(lm=None, loglevel="FATAL", frate=frame_rate, cmn="batch")


def _align_phones(samples: bytes, words: list[str], frame_rate: int) -> list[list[tuple[str, float, float]]] | None:
    """Sounds of every dictionary word, or None when there is no path at this frame rate."""
    decoder = _phone_decoder(frame_rate)
    for word in set(words):
        if decoder.lookup_word(word) is None:
            decoder.add_word(word, pronounce(word, lookup), True)

    def one_pass() -> bool:
        decoder.start_utt()
        decoder.process_raw(samples, no_search=False, full_utt=True)
        try:
            decoder.end_utt()
        except RuntimeError:  # how pocketsphinx says that the second pass has no path
            return False
        return True

    decoder.set_align_text(" ".join(words))
    if not one_pass() or decoder.hyp() is None:
        return None
    decoder.set_alignment()
    if not one_pass():
        return None
    names, found = [], []
    for word in decoder.get_alignment():  # one loop: a word is gone as soon as the iterator moves on
        phones = [(phone.name, phone.start / frame_rate, (phone.start + phone.duration) / frame_rate) for phone in word]
        if word.name[0] not in "<[":  # neither silence nor noise
            names.append(word.name.split("(")[0])
            found.append(phones)
    return found if names == words else None


def align_phones(wav: np.ndarray, text: str) -> list[Phone] | None:
    """Speech sounds of `text` in `wav (S,)` at 16 kHz, in order; silences are left out.

    Two passes of pocketsphinx: the first finds the words and the variant of each pronunciation, the second the
    sounds inside them. The second sometimes finds no path (every fourth recording at the usual 100 frames per
    second), so other frame rates follow; None when all of them fail (about one recording in twenty).
    """
    parts_of = [spoken_form(word) for word in text.split()]
    owner = [index for index, parts in enumerate(parts_of) for _ in parts]
    words = [part for parts in parts_of for part in parts]
    samples = (np.asarray(wav, dtype=np.float32).clip(-1, 1) * 32767).astype(np.int16).tobytes()
    for frame_rate in PHONE_FRAME_RATES:
        found = _align_phones(samples, words, frame_rate)
        if found is not None:
            return [Phone(*phone, word) for word, phones in zip(owner, found, strict=True) for phone in phones]
    return None


def phone_labels(phones: list[Phone], count: int) -> np.ndarray:
    """The sound at the centre of each of `count` frames, "SIL" between sounds: (T,) of strings."""
    labels = np.full(count, SILENCE, dtype=object)
    times = frame_times(count)
    for phone in phones:
        labels[(times >= phone.start) & (times < phone.end)] = phone.label
    return labels.astype(str)


def sound_parts(wav: np.ndarray, text: str, count: int) -> list[str]:
    """The sound at the centre of each of `count` frames and which third of it: 'AA0' to 'ZH2', 'SIL' between sounds.

    All empty when the sounds cannot be aligned.
    """
    phones = align_phones(wav, text)
    if phones is None:
        return [""] * count
    labels, times = [SILENCE] * count, frame_times(count)
    for phone in phones:
        for t in np.flatnonzero((times >= phone.start) & (times < phone.end)):
            labels[t] = f"{phone.label}{int(3 * (times[t] - phone.start) / (phone.end - phone.start))}"
    return labels


def word_index(words: list[Word], count: int) -> np.ndarray:
    """Index of the word spoken at the centre of each of `count` frames, -1 between words: (T,) int."""
    times, index = frame_times(count), np.full(count, -1)
    for number, word in enumerate(words):
        index[(times >= word.start) & (times < word.end)] = number
    return index


def place_in_word(words: list[Word], count: int) -> np.ndarray:
    """How much of its word has passed at the centre of each frame, 0 to 1; NaN between words: (T,)."""
    times, place = frame_times(count), np.full(count, np.nan)
    for word in words:
        inside = (times >= word.start) & (times < word.end)
        place[inside] = (times[inside] - word.start) / (word.end - word.start)
    return place


def word_starts(words: list[Word], count: int, within: float = 0.03) -> np.ndarray:
    """Whether a word starts at most `within` seconds from the centre of each frame: (T,) bool."""
    starts = np.array([word.start for word in words])
    return np.abs(frame_times(count)[:, None] - starts[None]).min(axis=1) <= within
