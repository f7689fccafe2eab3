"""The built-in speech recogniser: Whisper, greedy, with word times from its cross-attention.

The original system uses whisper-large-v3 for the transcript (paper section 4.1); the mini preset uses the Whisper
model whose encoder it already holds. Word times follow the Whisper recipe: the attention of a few alignment heads,
normalised, smoothed, and turned into a monotonic path by dynamic time warping.

Axes: S samples, N text tokens, T encoder frames (50 per second), H alignment heads.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import GenerationMixin, WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from .aggregator import Aggregator
from .audio import N_FFT, SAMPLE_RATE, SILENCE, check_audio, log_mel, split_windows
from .config import AggregatorConfig
from .ct2 import load_whisper
from .text import Word, load_tokenizer, split_words, tokenize

FRAME_SECONDS = 0.02  # one encoder frame
# Whisper listens to the middle of a word, so the path reaches it late. The constant was chosen on a few synthetic
# training sentences with forced alignments; chapter 0 records what lag is left on human speech.
LAG_SECONDS = 0.08  # dev: attention-lag


@dataclass(frozen=True)
class Transcript:
    """text: words joined by single spaces. words: with start and end in seconds."""

    text: str
    words: list[Word]


def monotonic_path(scores: np.ndarray) -> list[int]:
    """Dynamic time warping: scores (N, T), larger = better match -> first frame of each of the N tokens, ascending."""
    n_tokens, n_frames = scores.shape
    rows = scores.tolist()  # plain floats: several times faster than numpy scalars in this loop
    above = [0.0] + [-math.inf] * n_frames
    came_from = []  # per cell: 0 from the previous token and frame, 1 previous token, 2 previous frame
    for row in rows:
        current, steps = [-math.inf], []
        for j in range(1, n_frames + 1):
            best, step = above[j - 1], 0
            if above[j] > best:
                best, step = above[j], 1
            if current[j - 1] > best:
                best, step = current[j - 1], 2
            current.append(best + row[j - 1])
            steps.append(step)
        above = current
        came_from.append(steps)
    first, i, j = [0] * n_tokens, n_tokens - 1, n_frames - 1
    while i >= 0:
        first[i] = j
        step = came_from[i][j]
        i, j = i - (step != 2), j - (step != 1)
    return first


def median_filter(x: torch.Tensor, width: int = 7) -> torch.Tensor:
    """Running median over the last axis, same length, mirrored at the borders."""
    half = width // 2
    padded = torch.nn.functional.pad(x, (half, half), mode="reflect")
    return padded.unfold(-1, width, 1).median(dim=-1).values


def start_tokens(whisper: WhisperForConditionalGeneration, tokenizer: Tokenizer) -> list[int]:
    """Ids that ask for English text without time stamps; the last one is <|notimestamps|>."""
    multilingual = ["<|en|>", "<|transcribe|>"] if whisper.config.vocab_size >= 51865 else []
    return [tokenizer.token_to_id(name) for name in ("<|startoftranscript|>", *multilingual, "<|notimestamps|>")]


def greedy(
    whisper: WhisperForConditionalGeneration, states: torch.Tensor, prompt: list[int], n_tokens: int
) -> torch.Tensor:
    """The most probable token at every step, at most n_tokens after the prompt: states (B, T, D) -> ids (B, N)."""
    # transformers' plain generation loop; Whisper's own wrapper around it only adds what long audio needs.
    return GenerationMixin.generate(
        whisper,
        encoder_outputs=BaseModelOutput(states),
        attention_mask=torch.ones(states.shape[:2], device=states.device),
        decoder_input_ids=torch.tensor([prompt] * len(states), device=states.device),
        do_sample=False,
        max_length=min(len(prompt) + n_tokens, whisper.config.max_target_positions),
    )[:, len(prompt) :]


class SpeechRecognizer:
    """Whisper model + tokenizer -> transcripts with word times."""

    def __init__(self, whisper: WhisperForConditionalGeneration, tokenizer: Tokenizer):
        self.whisper, self.tokenizer = whisper, tokenizer
        self.alignment_heads = whisper.generation_config.alignment_heads  # [[layer, head], ...]
        config = whisper.config
        *prefix, self.no_timestamps = start_tokens(whisper, tokenizer)
        # Whisper's decoder is the aggregator with keys and values from the same layer. The last prompt token is
        # handed over as text, because its position is the one that listens for the first word.
        self.decoder = Aggregator(
            AggregatorConfig(
                vocab_size=config.vocab_size,
                d_model=config.d_model,
                n_layers=config.decoder_layers,
                n_heads=config.decoder_attention_heads,
                d_ff=config.decoder_ffn_dim,
                n_positions=config.max_target_positions,
                prefix=tuple(prefix),
            )
        ).load_whisper_decoder(whisper.model.decoder, identity_values=False)
        self.decoder.requires_grad_(False).eval()

    @classmethod
    def from_folder(cls, folder: str | Path) -> "SpeechRecognizer":
        """Load a CTranslate2 Whisper folder: model.bin, config.json, tokenizer.json."""
        return cls(load_whisper(folder), load_tokenizer(folder))

    @torch.no_grad()
    def transcribe(self, wav: torch.Tensor) -> Transcript:
        """wav: (S,) at 16 kHz, any length up to an hour; longer than 30 s is cut at quiet points.

        Returns the words heard; an empty transcript when there are none. Raises TasteError for unusable audio.
        """
        wav = check_audio(wav)
        words: list[Word] = []
        for start, end in split_windows(wav):
            if wav[start:end].abs().max() < SILENCE or end - start < N_FFT:
                continue
            states, offset = self._encode(wav[start:end]), start / SAMPLE_RATE
            heard = self._align(states, self._greedy(states), end - start)
            words += [Word(word.text, offset + word.start, offset + word.end) for word in heard]
        return Transcript(" ".join(word.text for word in words), words)

    @torch.no_grad()
    def locate(self, wav: torch.Tensor, words: list[str]) -> list[Word]:
        """Find known words in `wav (S,)`, at most 30 s at 16 kHz, assuming that all of them are spoken, in order."""
        return self._align(self._encode(wav), words, len(wav))

    def _encode(self, wav: torch.Tensor) -> torch.Tensor:
        mel = log_mel(wav, self.whisper.config.num_mel_bins)[None]  # (1, M, 3000)
        return self.whisper.model.encoder(mel).last_hidden_state  # (1, T, D)

    def _greedy(self, states: torch.Tensor) -> list[str]:
        """(1, T, D) -> words."""
        # Half of the context is more than anybody says in 30 s; on noise the model can repeat itself without end.
        prompt, n_tokens = [*self.decoder.config.prefix, self.no_timestamps], self.decoder.config.n_positions // 2
        ids = greedy(self.whisper, states, prompt, n_tokens)[0]
        return split_words(self.tokenizer.decode(ids.tolist(), skip_special_tokens=True))

    def _align(self, states: torch.Tensor, words: list[str], n_samples: int) -> list[Word]:
        if not words:
            return []
        text = tokenize(self.tokenizer, words)
        config = self.decoder.config
        fits = config.n_positions - len(config.prefix) - 2  # tokens beside the prefix and the mark in front of the text
        if len(text.token_ids) > fits:  # noise heard as an endless repetition, which single words spell out longer
            words = words[: int(text.word_ids[fits])]
            text = tokenize(self.tokenizer, words)
        ids = torch.cat([torch.tensor([self.no_timestamps]), text.token_ids])[None]  # (1, 1 + N)
        lengths = torch.tensor([ids.shape[1]])
        output = self.decoder(ids, torch.zeros_like(ids), lengths, states, states, need_attention=True)
        n_frames = min(states.shape[1], max(8, round(n_samples / SAMPLE_RATE / FRAME_SECONDS)))
        maps = torch.stack([output.cross_attention[0, layer, head] for layer, head in self.alignment_heads])
        maps = maps[..., :n_frames]  # (H, 1 + N, T)
        maps = (maps - maps.mean(dim=1, keepdim=True)) / maps.std(dim=1, keepdim=True).clamp(min=1e-6)
        first = monotonic_path(median_filter(maps).mean(dim=0).numpy())  # 1 + N frames, the last = end of speech
        # Row i listens for token i (row 0 is the prompt), so word w starts where the row of its first token starts.
        starts = [int(torch.argmax((text.word_ids == w).int())) for w in range(len(words))]
        seconds = [max(0.0, first[i] * FRAME_SECONDS - LAG_SECONDS) for i in [*starts, -1]]
        return [Word(*timed) for timed in zip(words, seconds, seconds[1:], strict=False)]
