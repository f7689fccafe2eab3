"""How the words of a synthetic sentence are to be said: tempo, pitch and loudness, in eight styles.

Axes: W words.
"""

import random
from dataclasses import dataclass

import numpy as np

STYLES = ("plain", "drift", "phrase", "emphasis", "random")  # of training utterances
PAIR = ("plain", "slow", "fast", "random")  # of a held-out sentence: the same text, for the editing experiments


@dataclass(frozen=True)
class Prosody:
    """Per word: rate (1 = the voice's own tempo, 2 = twice as fast), pitch factor, gain in dB. Each has W entries."""

    rate: list[float]
    pitch: list[float]
    gain: list[float]


def prosody_of(style: str, n_words: int, rng: random.Random) -> Prosody:
    """Tempo, pitch and loudness of every word in one of the styles.

    plain: even. slow, fast: even, 0.75 and 1.3 times the voice's tempo. drift: from slow to fast or back. phrase: two
    parts with different tempo and pitch. emphasis: one or two words longer, higher and louder. random: word by word.
    """
    base = {"slow": 0.75, "fast": 1.3, "plain": rng.uniform(0.8, 1.25)}.get(style, rng.uniform(0.88, 1.12))
    tone = 1.0 if style in PAIR[:3] else rng.uniform(0.93, 1.08)
    rate, pitch, gain = [base] * n_words, [tone] * n_words, [0.0] * n_words
    if style == "drift":
        span, lift = rng.choice((-1, 1)) * rng.uniform(0.2, 0.4), rng.uniform(-0.15, 0.15)
        slope = np.linspace(-1, 1, n_words)
        rate, pitch = list(base * np.exp(span * slope)), list(tone * np.exp(lift * slope))
    elif style == "phrase":
        cut, span = rng.randint(2, max(2, n_words - 2)), rng.choice((-1, 1)) * rng.uniform(0.2, 0.35)
        signs = [-1 if i < cut else 1 for i in range(n_words)]
        lift, louder = rng.uniform(-0.12, 0.12), rng.uniform(-2, 2)
        rate, pitch = [base * np.exp(span * s) for s in signs], [tone * np.exp(lift * s) for s in signs]
        gain = [louder * s for s in signs]
    elif style == "emphasis":
        for i in rng.sample(range(n_words), min(n_words, rng.randint(1, 2))):
            rate[i], pitch[i], gain[i] = (
                base * rng.uniform(0.55, 0.75),
                tone * rng.uniform(1.12, 1.3),
                rng.uniform(2, 5),
            )
    elif style == "random":
        rate = [base * np.exp(rng.gauss(0, 0.2)) for _ in range(n_words)]
        pitch = [tone * np.exp(rng.gauss(0, 0.09)) for _ in range(n_words)]
        gain = [rng.gauss(0, 1.5) for _ in range(n_words)]
    rounded = ([round(float(value), 3) for value in values] for values in (np.clip(rate, 0.5, 1.7), pitch, gain))
    return Prosody(*rounded)
