"""Says a sentence in one of six synthetic voices, with control over every word: the speech of the mini corpus.

A corpus for TASTE needs speech whose *words* differ in tempo, pitch and loudness where the text does not say so; the
codes have nothing to carry otherwise. Tempo and pitch act inside the networks (voices.py), loudness is a smooth gain on
the waveform. The Piper voice has no pitch control: its pitch follows its random numbers.

Axes: S samples, W words, P phoneme symbols.
"""

import difflib
from dataclasses import dataclass

import numpy as np

from .errors import TasteError
from .prosody import Prosody
from .voices import KOKORO, LATE, SAMPLE_RATE, VOICES, libraries, network


@dataclass(frozen=True)
class Speech:
    """wav: (S,) float32 at 22.05 kHz. word_times: W (start, end) in seconds, as the network placed its phonemes."""

    wav: np.ndarray
    word_times: list[tuple[float, float]]


def phonemes(text: str) -> tuple[list[str], list[int]]:
    """espeak's IPA symbols of a sentence and the word each belongs to; spaces and marks belong to the word before.

    espeak runs some words together (`of the` -> `ʌvðə`), so the symbols are matched with those of the single words.
    """
    speaker = libraries()[2]
    symbols = [symbol for part in speaker.phonemize("en-us", text) for symbol in part]
    single, owner = [], []
    for index, word in enumerate(text.split()):
        sounds = [s for part in speaker.phonemize("en-us", word.strip(".,?")) for s in part if s.isalpha()]
        single += sounds
        owner += [index] * len(sounds)
    word_of, letters = [-1] * len(symbols), [i for i, symbol in enumerate(symbols) if symbol.isalpha()]
    matcher = difflib.SequenceMatcher(None, [symbols[i] for i in letters], single, autojunk=False)
    for start, other, length in matcher.get_matching_blocks():
        for offset in range(length):
            word_of[letters[start + offset]] = owner[other + offset]
    after_space = False
    for index, symbol in enumerate(symbols):  # symbols without a match, stress marks, spaces
        if word_of[index] < 0:
            before = word_of[index - 1] if index else 0
            following = next((w for w in word_of[index:] if w >= 0), before)
            joins_next = after_space if symbol != " " else False
            word_of[index] = following if joins_next or index == 0 else before
        after_space = symbol == " " or (after_space and not symbol.isalpha())
    return symbols, word_of


def speak(text: str, voice: str, prosody: Prosody, seed: int = 0) -> Speech:
    """Say a sentence with one rate, pitch factor and gain per white-space separated word.

    The edges are trimmed to 0.1 s of silence and the level is set to -23 dBFS RMS. Raises TasteError for an unknown
    voice, prosody of another length than the text, and missing packages.
    """
    if voice not in VOICES:
        raise TasteError(f"there is no voice '{voice}'; choose from {', '.join(VOICES)}.")
    n_words = len(text.split())
    if {len(prosody.rate), len(prosody.pitch), len(prosody.gain)} != {n_words}:
        raise TasteError(f"the prosody must have one entry for each of the {n_words} words.")
    symbols, word_of = phonemes(text)
    kind = "kokoro" if voice in KOKORO else "piper"
    wav, samples, words = network(kind).say(symbols, word_of, prosody, voice, seed)
    edges = np.maximum(0, np.concatenate([[0], np.cumsum(samples)]) - LATE[kind] * SAMPLE_RATE)
    words, inner = np.array(words), slice(1, -1)  # the first and last token are the silence around the sentence
    times = []
    for index in range(n_words):
        (at,) = np.nonzero(words[inner] == index)
        start, end = (edges[at[0] + 1], edges[at[-1] + 2]) if len(at) else (times[-1][1] if times else 0.0,) * 2
        times.append((float(start), float(end)))
    wav = wav * _envelope(len(wav), times, prosody.gain)
    loud = np.flatnonzero(np.abs(wav) > 0.01 * np.abs(wav).max())
    margin = SAMPLE_RATE // 10
    first, last = max(0, loud[0] - margin), loud[-1] + margin
    wav = wav[first:last]
    wav = wav * min(10 ** (-23 / 20) / np.sqrt(np.mean(wav**2)), 0.95 / np.abs(wav).max())
    clipped = [(max(0.0, start - first) / SAMPLE_RATE, max(0.0, end - first) / SAMPLE_RATE) for start, end in times]
    return Speech(wav.astype(np.float32), clipped)


def _envelope(length: int, times: list[tuple[float, float]], gain: list[float]) -> np.ndarray:
    """Amplitude factor (S,): each word's gain at its centre, in between linear in dB."""
    centres = [(start + end) / 2 for start, end in times]
    return 10 ** (np.interp(np.arange(length), centres, gain) / 20)
