"""What TASTE keeps of an utterance: words, one row of codes per word, and the speaker (paper sections 3.1 and 4.1).

Axes: W words, R quantiser layer, D width.
"""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .bitrate import Bitrate, bitrate
from .errors import TasteError
from .files import write_whole
from .text import Word, read_word

PIECE_SECONDS = 12.0  # longest stretch that is decoded at once; training knows single sentences only
TENSORS = ("codes", "embeddings", "speaker_embedding")


def spoken(word: str) -> str:
    """A word without case and punctuation, for comparisons: `Don't,` -> `dont`."""
    return "".join(letter for letter in word.lower() if letter.isalnum())


@dataclass(frozen=True)
class TasteTokens:
    """What TASTE keeps of an utterance.

    text: transcript. words: W words with start and end in seconds. codes: (W, R) int64, -1 where nothing was quantized.
    embeddings: (W, D) float32, the vectors that the unit decoder reads. n_text_tokens: Whisper tokens of the
    transcript. seconds: length of the recording. speaker_embedding: (256,) float32 of length 1, who spoke.
    """

    text: str
    words: list[Word]
    codes: torch.Tensor
    embeddings: torch.Tensor
    n_text_tokens: int
    seconds: float
    speaker_embedding: torch.Tensor

    def bitrate(self, codebook_size: int = 512, vocab_size: int = 51866) -> Bitrate:
        """Bit/s of this utterance, silences included; the speaker is not counted (paper section 4.1)."""
        return bitrate(
            len(self.words) / self.seconds,
            self.n_text_tokens / self.seconds,
            self.codes.shape[1],
            codebook_size,
            vocab_size,
        )

    def pieces(self, seconds: float = PIECE_SECONDS) -> list[slice]:
        """Cut the words into runs that were spoken in at most `seconds` each (one word may be longer).

        A run ends with a sentence where there is one. Short utterances are one run.
        """
        runs, start, n_words = [], 0, len(self.words)
        while start < n_words:
            end = start + 1
            while end < n_words and self.words[end].end - self.words[start].start <= seconds:
                end += 1
            if end < n_words:
                ends = [i + 1 for i in range(start, end) if self.words[i].text.endswith((".", "!", "?"))]
                end = max(ends, default=end)
            runs.append(slice(start, end))
            start = end
        return runs

    def swap(self, other: "TasteTokens", words: list[int], other_words: list[int] | None = None) -> "TasteTokens":
        """A copy in which the words with these numbers (from 0) sound as in `other`; everything else stays.

        other_words: where the same words are found in `other`, by default at the same numbers. Codes and embeddings
        change, text, times and speaker do not. Raises TasteError when a number does not exist or the words differ
        (case and punctuation do not count), and for tokens of another model.
        """
        other_words = words if other_words is None else other_words
        if len(words) != len(other_words):
            raise TasteError(f"{len(words)} words cannot take the sound of {len(other_words)}; name as many of both.")
        if self.codes.shape[1:] != other.codes.shape[1:] or self.embeddings.shape[1:] != other.embeddings.shape[1:]:
            raise TasteError("the two utterances were encoded by different models; encode both with the same one.")
        for here, there in zip(words, other_words, strict=True):
            for number, tokens in ((here, self), (there, other)):
                if not 0 <= number < len(tokens.words):
                    last = len(tokens.words) - 1
                    raise TasteError(f"there is no word {number} in '{tokens.text}'; its words are 0 to {last}.")
            ours, theirs = self.words[here].text, other.words[there].text
            if spoken(ours) != spoken(theirs):
                raise TasteError(
                    f"word {here} is '{ours}' and word {there} of the other is '{theirs}'; choose words that agree."
                )
        codes, embeddings = self.codes.clone(), self.embeddings.clone()
        codes[words], embeddings[words] = other.codes[other_words], other.embeddings[other_words]
        return replace(self, codes=codes, embeddings=embeddings)

    @classmethod
    def concatenate(cls, parts: Sequence["TasteTokens"]) -> "TasteTokens":
        """Stretches of one recording, one after the other; a stretch without words only takes time.

        The speaker is the mean of the stretches. Raises TasteError for none, and for tokens of different models.
        """
        shapes = {(part.codes.shape[1:], part.embeddings.shape[1:], part.speaker_embedding.shape) for part in parts}
        if len(shapes) != 1:
            raise TasteError("the stretches of a recording come from one model; encode all with the same one.")
        if len(parts) == 1:
            return parts[0]
        starts = itertools.accumulate((part.seconds for part in parts), initial=0.0)
        return cls(
            " ".join(part.text for part in parts if part.words),
            [Word(w.text, t + w.start, t + w.end) for t, part in zip(starts, parts, strict=False) for w in part.words],
            torch.cat([part.codes for part in parts]),
            torch.cat([part.embeddings for part in parts]),
            sum(part.n_text_tokens for part in parts),
            sum(part.seconds for part in parts),
            F.normalize(torch.stack([part.speaker_embedding for part in parts]).mean(dim=0), dim=0),
        )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all; text and word times go into its metadata as JSON."""
        meta = {"text": self.text, "words": [asdict(word) for word in self.words]}
        meta |= {"n_text_tokens": self.n_text_tokens, "seconds": self.seconds}
        tensors = {name: getattr(self, name).contiguous() for name in TENSORS}
        write_whole(path, save(tensors, {"taste_tokens": json.dumps(meta)}))

    @classmethod
    def load(cls, path: str | Path) -> "TasteTokens":
        """Read what `save` wrote. Raises TasteError when it is something else."""
        try:
            with safe_open(str(path), "pt") as file:
                meta = json.loads(file.metadata()["taste_tokens"])
                missing = set(TENSORS) - set(file.keys())
                if missing:
                    raise TasteError(
                        f"{path} comes from an older version ({', '.join(missing)} missing); encode again."
                    )
                words = [read_word(**word) for word in meta.pop("words")]
                tokens = cls(words=words, **{name: file.get_tensor(name) for name in TENSORS}, **meta)
            tokens._check()
            return tokens
        # JSON errors are ValueErrors; metadata that is no table has no `pop`; JSON may be nested without end
        except (
            OSError,
            SafetensorError,
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            RecursionError,
        ) as error:
            raise TasteError(f"{path} is not a file of TASTE tokens; make one with `taste-min encode`.") from error

    def _check(self) -> None:
        """Raises ValueError or TypeError unless everything has the type and the shape that the class describes."""
        matrices, vectors = (self.codes, self.embeddings), (self.embeddings, self.speaker_embedding)
        if any(x.ndim != 2 or len(x) != len(self.words) for x in matrices) or self.speaker_embedding.ndim != 1:
            raise ValueError("one row per word")
        if self.codes.is_floating_point() or not all(x.is_floating_point() and x.isfinite().all() for x in vectors):
            raise ValueError("codes are whole numbers, the rest is finite")
        if not isinstance(self.text, str) or not 0 < self.seconds < math.inf or not 0 <= self.n_text_tokens < 2**31:
            raise ValueError("text, seconds and the number of tokens")
