"""The judge: a Whisper model that writes down what it hears, for word error rates (paper section 4.2).

Greedy, in batches, and never longer than speech of that duration can be, because a recogniser that listens to broken
speech may repeat itself for ever. The units of the mini preset are clusters of Whisper base's states, so base would
judge what it helped to make; the default judge is tiny.en.

Axes: B batch, S samples, N text tokens.
"""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from transformers import WhisperForConditionalGeneration

from .asr import greedy, start_tokens
from .audio import SAMPLE_RATE, WINDOW_SECONDS, log_mel
from .errors import TasteError
from .text import load_tokenizer

JUDGES = {"tiny.en": "whisper-tiny-en", "base": "whisper-base"}  # name -> asset
TOKENS_PER_SECOND, SPARE_TOKENS = 8, 10  # more than the fastest readers need


def token_limit(n_samples: int) -> int:
    """Most text tokens that are written for a recording of this length at 16 kHz."""
    return SPARE_TOKENS + round(TOKENS_PER_SECOND * n_samples / SAMPLE_RATE)


class Judge:
    """Whisper + tokenizer -> transcripts of short recordings."""

    def __init__(self, whisper: WhisperForConditionalGeneration, tokenizer: Tokenizer):
        self.whisper, self.tokenizer = whisper.eval(), tokenizer
        self.prompt = start_tokens(whisper, tokenizer)

    @classmethod
    def load(cls, name: str, device: str = "cpu") -> "Judge":
        """name: "tiny.en" or "base"; fetched on first use. Raises TasteError for another name."""
        from .assets import fetch
        from .ct2 import load_whisper

        if name not in JUDGES:
            raise TasteError(f"there is no judge '{name}'; choose from {', '.join(JUDGES)}.")
        folder = fetch(JUDGES[name])
        return cls(load_whisper(folder).to(device), load_tokenizer(folder))

    @torch.no_grad()
    def transcribe(self, wavs: Sequence[torch.Tensor]) -> list[str]:
        """What is said in recordings (S,) of at most 30 s at 16 kHz, all in one batch. Raises TasteError if longer."""
        if not wavs:
            return []
        if max(map(len, wavs)) > WINDOW_SECONDS * SAMPLE_RATE:
            raise TasteError(f"the judge hears at most {WINDOW_SECONDS} s at once; cut the recording.")
        n_mels = self.whisper.config.num_mel_bins
        mel = torch.stack([log_mel(wav, n_mels) for wav in wavs]).to(self.whisper.device)  # (B, M, 3000)
        states = self.whisper.model.encoder(mel).last_hidden_state
        limits = [token_limit(len(wav)) for wav in wavs]
        ids = greedy(self.whisper, states, self.prompt, max(limits))  # (B, N)
        rows = zip(ids.tolist(), limits, strict=True)
        return [self.tokenizer.decode(row[:limit], skip_special_tokens=True).strip() for row, limit in rows]
