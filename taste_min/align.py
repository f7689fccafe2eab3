"""Word times of a recording whose text is known: forced alignment with pocketsphinx.

The paper reports word-level durations and text-aligned attention (sections 4.3, 4.4 and figures); both need the time
of every word. Pocketsphinx carries its English model in the wheel, runs at about 0.01 x real time and works in frames
of 10 ms. It only aligns here; its free decoding is not used.

A phone model has three states and takes at least three frames, so very fast speech has no path of 10 ms frames. Such
speech is analysed with a finer frame step, which does to the features what stretching the recording would do, without
the artefacts of a time stretcher.

Axes: S samples, W words.
"""

import functools
from pathlib import Path

import numpy as np
import pocketsphinx

from .errors import TasteError
from .pronounce import pronounce, spoken_form
from .text import Word

SAMPLE_RATE = 16_000  # Hz
FAST = 20  # letters per second of recording above which the finer frame step comes first
# (frames per second, log10 of the search beam), tried in turn. A wider beam is not safer: the search then more often
# ends in the middle of the text, which counts as a failure here.
SETTINGS = ((100, -48), (160, -48), (200, -48), (100, -100))
# The search needs room and a noise floor at both ends; digital silence or a tight cut makes it lose the last words.
MARGIN, NOISE = 0.3, 1e-4  # seconds, amplitude


@functools.cache
def _decoder(frame_rate: int, beam: int) -> pocketsphinx.Decoder:
    width = 10.0**beam
    return pocketsphinx.Decoder(lm=None, loglevel="FATAL", frate=frame_rate, cmn="batch", beam=width, pbeam=width)


@functools.cache
def _dictionary() -> dict[str, str]:
    path = pocketsphinx.get_model_path("en-us/cmudict-en-us.dict")
    return dict(line.split(maxsplit=1) for line in Path(path).read_text(encoding="utf-8").splitlines())


def lookup(word: str) -> str | None:
    """Sounds of a lower-case word in the CMU dictionary, in ARPAbet: 'hi' -> 'HH AY'; None = unknown."""
    return _dictionary().get(word)


def in_dictionary(word: str) -> bool:
    """Whether the aligner has a pronunciation of a lower-case word of its own."""
    return lookup(word) is not None


def _segments(
    samples: bytes, words: list[str], frame_rate: int, beam: int, margin: float
) -> list[tuple[float, float]] | None:
    """(start, end) in seconds of every dictionary word, or None when no path through the recording exists."""
    decoder = _decoder(frame_rate, beam)
    for word in set(words):
        if decoder.lookup_word(word) is None:
            decoder.add_word(word, pronounce(word, lookup), True)
    decoder.reinit_feat()  # forget the noise level of the recording before
    decoder.set_align_text(" ".join(words))
    decoder.start_utt()
    decoder.process_raw(samples, no_search=False, full_utt=True)
    decoder.end_utt()
    if decoder.hyp() is None:
        return None
    spoken = [segment for segment in decoder.seg() if segment.word[0] not in "<["]  # neither silence nor noise
    if [segment.word.split("(")[0] for segment in spoken] != words:
        return None
    return [
        (round(s.start_frame / frame_rate - margin, 4), round((s.end_frame + 1) / frame_rate - margin, 4))
        for s in spoken
    ]


def align(wav, text: str, sample_rate: int = SAMPLE_RATE, padded: bool = True) -> list[Word]:
    """Time of every white-space separated word of `text` in `wav (S,)`, a torch tensor or numpy array in [-1, 1].

    The result has one `Word` per entry of `text.split()`, in order, `text` as written. Times are seconds on a grid of
    10 ms (finer for very fast speech). A word of several dictionary words (`well-known`) is one `Word`; one without
    letters or digits (`-`) gets zero duration where the previous word ends. Silence between words belongs to none.
    padded: add a margin with a noise floor at both ends; without it the recording is aligned as it is.

    Raises TasteError for a sample rate other than 16 kHz, a text without words, and when alignment fails.
    """
    if sample_rate != SAMPLE_RATE:
        raise TasteError(f"alignment takes 16000 Hz audio, got {sample_rate} Hz; read it with read_audio(path, 16000).")
    wav = np.asarray(wav, dtype=np.float32)
    if wav.ndim != 1 or len(wav) < SAMPLE_RATE // 10 or not np.isfinite(wav).all():
        raise TasteError("alignment takes one channel of at least 0.1 s of finite samples; check the recording.")
    written = text.split()
    spoken = [spoken_form(word) for word in written]
    flat = [part for parts in spoken for part in parts]
    if not flat:
        raise TasteError("the text has no words to align; give the transcript of the recording.")
    seconds, margin = len(wav) / SAMPLE_RATE, 0.0
    if padded:
        margin = MARGIN
        wav = np.pad(wav, round(margin * SAMPLE_RATE))
        wav += np.random.default_rng(0).normal(0, NOISE, len(wav)).astype(np.float32)
    samples = (wav.clip(-1, 1) * 32767).astype(np.int16).tobytes()
    letters_per_second = sum(map(len, flat)) / seconds
    for frame_rate, beam in SETTINGS[letters_per_second > FAST :]:
        times = _segments(samples, flat, frame_rate, beam, margin)
        if times is not None:
            break
    else:
        raise TasteError(
            f"the text of {len(written)} words does not fit the recording of {seconds:.1f} s; "
            "check that text and recording belong together and that the text is complete."
        )
    words, at, clock = [], 0, 0.0
    for word, parts in zip(written, spoken, strict=True):
        start, end = (times[at][0], times[at + len(parts) - 1][1]) if parts else (clock, clock)
        words.append(Word(word, min(max(start, 0.0), seconds), min(max(end, 0.0), seconds)))
        at, clock = at + len(parts), end
    return words
