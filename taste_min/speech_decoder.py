"""From TASTE tokens back to speech: unit decoder, flow and vocoder in a row (paper section 3.1, speech decoder).

Axes: S samples, N text tokens, W words, D width, U units, M mel bands, F mel frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from .config import TasteConfig
from .errors import TasteError
from .flow import Flow
from .mel_match import match_mel
from .text import tokenize
from .tokens import TasteTokens
from .unit_decoder import GeneratedUnits, UnitDecoder
from .unit_sampling import Sampling
from .vocoder import Vocoder

TASTE_SAMPLING = Sampling(top_k=10)  # the paper's evaluation of TASTE
TEXT_ONLY_SAMPLING = Sampling(top_k=25)  # and of its text-only baseline
BATCH = 16  # pieces whose units are written together
STAGES = {  # part -> the training stage that makes it
    "quantizer": "vq",
    "unit_decoder": "vq",
    "text_only_decoder": "text_only",
    "flow": "flow",
    "vocoder": "vocoder",
    "units": "units",
}


@dataclass(frozen=True)
class Decoded:
    """Speech and what it was made of, on the CPU.

    wav: (S,) at `sample_rate` Hz. units: (U,) int64, 50 per second. mel: (M, F) natural-log mel spectrogram.
    ended: False when the unit decoder was cut at its length limit, so that the speech may lack its end or ramble.
    """

    wav: torch.Tensor
    sample_rate: int
    units: torch.Tensor
    mel: torch.Tensor
    ended: bool = True


class SpeechDecoder(nn.Module):
    """The decoder half of TASTE. A part that was not given is None, and a method that needs it raises TasteError."""

    def __init__(
        self,
        config: TasteConfig,
        tokenizer: Tokenizer,
        unit_decoder: UnitDecoder | None = None,
        text_only_decoder: UnitDecoder | None = None,
        flow: Flow | None = None,
        vocoder: Vocoder | None = None,
    ):
        """text_only_decoder: a second unit decoder, trained on text alone (the paper's baseline)."""
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.unit_decoder, self.text_only_decoder = unit_decoder, text_only_decoder
        self.flow, self.vocoder = flow, vocoder

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def part(self, name: str):
        """The part with this name. Raises TasteError when this model was loaded without it."""
        part = getattr(self, name)
        if part is None:
            stage, what = STAGES[name], name.replace("_", " ")
            raise TasteError(
                f"this model has no {what}; train it with `taste-min train {stage}` and load the folder it exports to."
            )
        return part

    def decode(
        self,
        tokens: TasteTokens,
        speaker_embedding: torch.Tensor | None = None,
        text_only: bool = False,
        sampling: Sampling | None = None,
        seed: int = 0,
        n_timesteps: int | None = None,
    ) -> Decoded:
        """Turn TASTE tokens into speech.

        speaker_embedding: (256,) of another speaker; default the one in the tokens.
        text_only: leave the codes out and speak the text with the baseline that never heard any.
        sampling: how units are drawn; default TASTE_SAMPLING or TEXT_ONLY_SAMPLING.
        seed: of all randomness; the same seed gives the same speech on the same device.
        n_timesteps: Euler steps of the flow, default the configuration's.

        Utterances of more than 12 s are spoken in pieces of whole words, at best whole sentences, one after the other
        (`TasteTokens.pieces`). Raises TasteError for missing parts and for tokens of another model.
        """
        return self.decode_many([tokens], speaker_embedding, text_only, sampling, seed, n_timesteps)[0]

    def decode_many(
        self,
        many: Sequence[TasteTokens],
        speaker_embedding: torch.Tensor | None = None,
        text_only: bool = False,
        sampling: Sampling | None = None,
        seed: int = 0,
        n_timesteps: int | None = None,
    ) -> list[Decoded]:
        """The same for many utterances; units are written BATCH pieces at a time, which is faster.

        What is drawn for one utterance depends on the others unless the sampling is greedy.
        """
        self.part("flow"), self.part("vocoder")  # before the long work, not after
        many_units = self.write_units(many, speaker_embedding, text_only, sampling, seed)
        spoken = []
        for tokens, written in zip(many, many_units, strict=True):
            speaker = tokens.speaker_embedding if speaker_embedding is None else speaker_embedding
            pieces = [
                self.synthesize(
                    written.units[i, :length],
                    speaker,
                    seed,
                    n_timesteps,
                    None if written.sounds is None else written.sounds[i, :length],
                )
                for i, length in enumerate(written.lengths.tolist())
            ]
            wav, units = torch.cat([piece.wav for piece in pieces]), torch.cat([piece.units for piece in pieces])
            mel = torch.cat([piece.mel for piece in pieces], dim=1)  # (M, F)
            spoken.append(Decoded(wav, self.config.vocoder.sample_rate, units, mel, bool(written.ended.all())))
        return spoken

    def write_units(
        self,
        many: Sequence[TasteTokens],
        speaker_embedding: torch.Tensor | None = None,
        text_only: bool = False,
        sampling: Sampling | None = None,
        seed: int = 0,
    ) -> list[GeneratedUnits]:
        """Speech units of every utterance on the CPU, one row per piece of it; arguments as in `decode`."""
        decoder = self.part("text_only_decoder" if text_only else "unit_decoder")
        sampling = sampling or (TEXT_ONLY_SAMPLING if text_only else TASTE_SAMPLING)
        prompts, owners = [], []
        for number, tokens in enumerate(many):
            if not tokens.words:
                raise TasteError("there are no words to speak; encode a recording in which somebody speaks.")
            if not text_only and tokens.embeddings.shape[1] != decoder.config.d_taste:
                raise TasteError("these tokens come from another model; encode the recording with this one.")
            speaker = self._speaker(tokens.speaker_embedding if speaker_embedding is None else speaker_embedding)
            for piece in tokens.pieces():
                text = tokenize(self.tokenizer, [word.text for word in tokens.words[piece]])
                prompts.append((text.token_ids, tokens.embeddings[piece][text.word_ids], speaker))  # (N,), (N, D)
                owners.append(number)
        generator = torch.Generator(self.device).manual_seed(seed)
        rows: list[list] = [[] for _ in many]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i][0]))  # similar lengths, little padding
        written = {}
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            ids, embeddings, speakers = zip(*(prompts[i] for i in chosen), strict=True)
            result = decoder.generate(
                pad_sequence(ids, batch_first=True).to(self.device),  # (B, N)
                torch.tensor([len(row) for row in ids], device=self.device),
                torch.stack(speakers).to(self.device),
                None if text_only else pad_sequence(embeddings, batch_first=True).to(self.device),  # (B, N, D)
                text_only,
                sampling,
                generator,
            )
            for row, i in enumerate(chosen):
                length = int(result.lengths[row])
                sounds = None if result.sounds is None else result.sounds[row, :length].cpu()
                written[i] = result.units[row, :length].cpu(), result.ended[row].cpu(), sounds
        for i, owner in enumerate(owners):
            rows[owner].append(written[i])
        return [_join(pieces) for pieces in rows]

    @torch.no_grad()
    def synthesize(
        self,
        units: torch.Tensor,
        speaker_embedding: torch.Tensor,
        seed: int = 0,
        n_timesteps: int | None = None,
        sounds: torch.Tensor | None = None,
    ) -> Decoded:
        """Speech from units (U,) and a speaker: flow and vocoder alone. Units of a recording give the paper's topline.

        sounds: (U,) the speech sound of each unit, where known; see `Flow.generate`. Raises TasteError for no units, or
        units of another model.
        """
        flow = self.part("flow")
        if len(units) and not 0 <= int(units.min()) <= int(units.max()) < self.config.flow.n_units:
            raise TasteError(f"units must lie in 0..{self.config.flow.n_units - 1}; these come from another model.")
        generated = flow.generate(
            units[None].to(self.device),
            torch.tensor([len(units)], device=self.device),
            self._speaker(speaker_embedding)[None].to(self.device),
            generator=torch.Generator(self.device).manual_seed(seed),
            n_timesteps=n_timesteps,
            sounds=None if sounds is None else sounds[None].to(self.device),
        )
        mel = generated.mel[0].cpu()  # (M, F)
        return Decoded(self.vocode(mel, seed), self.config.vocoder.sample_rate, units.cpu(), mel)

    @torch.no_grad()
    def vocode(self, mel: torch.Tensor, seed: int = 0) -> torch.Tensor:
        """A mel spectrogram (M, F) of the flow or of `audio.vocoder_mel` -> waveform (S,) at 22.05 kHz."""
        generator = torch.Generator(self.device).manual_seed(seed)
        mel = mel[None].to(self.device)
        wav = self.part("vocoder")(mel, generator=generator).wav
        return match_mel(wav, mel, self.config.vocoder.mel_matches)[0].cpu()

    def _speaker(self, embedding: torch.Tensor) -> torch.Tensor:
        """Raises TasteError unless the embedding has the size that this model's decoders read."""
        size = self.config.unit_decoder.d_speaker
        if embedding.shape != (size,):
            raise TasteError(f"a speaker embedding must have shape ({size},), got {tuple(embedding.shape)}.")
        return embedding.float().cpu()


def _join(pieces: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]) -> GeneratedUnits:
    """Pieces of one utterance, each (units (U,), ended (), sounds (U,) or None), as the rows of one result."""
    units, ended, sounds = zip(*pieces, strict=True)
    lengths = torch.tensor([len(row) for row in units])
    sounds = None if sounds[0] is None else pad_sequence(sounds, batch_first=True)
    return GeneratedUnits(pad_sequence(units, batch_first=True, padding_value=-1), lengths, torch.stack(ended), sounds)
