"""From speech units to a mel spectrogram by conditional flow matching (the flow of CosyVoice-300M, kept by TASTE).

An encoder reads the units, a length regulator stretches them from 50 Hz to mel frames (mu), and flow matching makes a
mel spectrogram of that (flow_matching.py).

Axes: B batch, U units, F mel frames, M mel bands, D encoder width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .config import FlowConfig
from .errors import TasteError
from .flow_matching import FlowMatching
from .phones import SYMBOLS
from .transformer import RelativeTransformer
from .unet import MaskedGroupNorm, masked


@dataclass(frozen=True)
class Mel:
    """mel: (B, M, F) natural-log mel spectrogram, 0 after the end. lengths: (B,) frames."""

    mel: torch.Tensor
    lengths: torch.Tensor


def length_mask(lengths: torch.Tensor, size: int) -> torch.Tensor | None:
    """(B, 1, size) with 1 for real positions, or None when every row is full (which is faster)."""
    if int(lengths.min()) >= size:
        return None
    return (torch.arange(size, device=lengths.device) < lengths[:, None])[:, None].float()


def stretch(x: torch.Tensor, lengths: torch.Tensor, new_lengths: torch.Tensor) -> torch.Tensor:
    """Nearest-neighbour interpolation of every row from its own length to its own new length.

    x: (B, M, U) -> (B, M, F) with F = max(new_lengths). Same positions as torch's `interpolate(mode="nearest")`.
    """
    frames = torch.arange(int(new_lengths.max()), device=x.device)
    scale = lengths.float() / new_lengths.float()  # (B,)
    source = (frames * scale[:, None]).floor().long()  # (B, F)
    source = torch.minimum(source, lengths.long()[:, None] - 1)
    return x.gather(2, source[:, None].expand(-1, x.shape[1], -1))


class LengthRegulator(nn.Module):
    """Stretch the encoded units to mel frames and smooth them with four convolutions."""

    def __init__(self, n_mels: int):
        super().__init__()
        layers = []
        for _ in range(4):
            layers += [nn.Conv1d(n_mels, n_mels, 3, padding=1), MaskedGroupNorm(1, n_mels), nn.Mish()]
        self.model = nn.Sequential(*layers, nn.Conv1d(n_mels, n_mels, 1))

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor, new_lengths: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """x: (B, M, U), mask: of the result -> (B, M, F)."""
        x = stretch(x, lengths, new_lengths)
        for layer in self.model:
            x = layer(x, mask) if isinstance(layer, MaskedGroupNorm) else layer(masked(x, mask))
        return masked(x, mask)


class Flow(nn.Module):
    """Unit encoder, length regulator and flow matching: units and speaker in, mel spectrogram out."""

    def __init__(self, config: FlowConfig):
        super().__init__()
        self.config = config
        self.input_embedding = nn.Embedding(config.n_units, config.d_model)
        self.spk_embed_affine_layer = nn.Linear(config.d_speaker, config.n_mels)
        self.encoder = RelativeTransformer(
            config.d_model,
            config.d_model,
            config.n_heads,
            config.d_ff,
            config.n_layers,
            causal=False,
            dropout=config.dropout,
            position_dropout=config.dropout,
            attention_dropout=config.dropout,
        )
        if config.speaker_in_encoder:
            self.encoder_speaker = nn.Linear(config.d_speaker, config.d_model)
        if config.pronounced:
            self.sound_embedding = nn.Embedding(len(SYMBOLS), config.d_model, padding_idx=0)
            self.neighbours = nn.Conv1d(config.d_model, config.d_model, 7, padding=3)
        self.encoder_proj = nn.Linear(config.d_model, config.n_mels)
        self.length_regulator = LengthRegulator(config.n_mels)
        self.decoder = FlowMatching(config)

    def n_frames(self, unit_lengths: torch.Tensor) -> torch.Tensor:
        """Mel frames for a number of units, (B,) -> (B,); in float32 and truncated, so 30 units give 51 frames."""
        return (unit_lengths.float() / self.config.unit_rate * self.config.sample_rate / self.config.hop).long()

    def encode(
        self,
        units: torch.Tensor,
        unit_lengths: torch.Tensor,
        frames: torch.Tensor,
        speaker_embedding: torch.Tensor,
        sounds: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The condition: mu (B, M, F), speaker (B, M), and the mask of the frames (B, 1, F) or None."""
        valid = torch.arange(units.shape[1], device=units.device) < unit_lengths[:, None]  # (B, U)
        speaker_embedding = F.normalize(speaker_embedding, dim=-1)
        x = self.input_embedding(units.clamp(min=0))  # (B, U, D)
        if self.config.speaker_in_encoder:
            x = x + self.encoder_speaker(speaker_embedding)[:, None]  # dev: mu-loss
        if self.config.pronounced:
            # dev: flow-hears-sounds
            x = x if sounds is None else x + self.sound_embedding(sounds)
            x = x * valid[..., None]
            x = x + F.gelu(self.neighbours(x.transpose(1, 2))).transpose(1, 2)
        hidden = self.encoder(x, valid)  # (B, U, D)
        mask = length_mask(frames, int(frames.max()))
        mu = self.length_regulator(self.encoder_proj(hidden).transpose(1, 2), unit_lengths, frames, mask)
        return mu, self.spk_embed_affine_layer(speaker_embedding), mask

    def forward(
        self,
        units: torch.Tensor,
        unit_lengths: torch.Tensor,
        mel: torch.Tensor,
        mel_lengths: torch.Tensor,
        speaker_embedding: torch.Tensor,
        generator: torch.Generator | None = None,
        prior_only: bool = False,
        sounds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Training loss (scalar): flow matching, plus `prior_weight` times the distance of mu, or `prior_only` this.

        units: (B, U), mel: (B, M, F) from `audio.vocoder_mel`, speaker_embedding: (B, S). sounds: as in `generate`.

        Units and mel are padded on the right with anything; the units are stretched to the mel's true length.
        """
        config = self.config
        # dev: mel-normalised
        mel = (mel[:, :, : int(mel_lengths.max())] - config.mel_mean) / config.mel_std
        if sounds is not None and self.training:  # so that units alone can be spoken too
            sounds = sounds * (torch.rand(len(sounds), 1, device=sounds.device) >= config.sound_dropout)
        mu, speaker, mask = self.encode(units, unit_lengths, mel_lengths, speaker_embedding, sounds)
        # Teaches the unit encoder directly what the U-Net would teach it slowly (as in Grad-TTS).
        # dev: mu-loss
        prior = masked(mu.float() - mel, mask).square().sum() / (mel_lengths.sum() * mel.shape[1])
        if prior_only:
            return prior
        return self.decoder.loss(masked(mel, mask), mask, mu, speaker, generator) + config.prior_weight * prior

    @torch.no_grad()
    def generate(
        self,
        units: torch.Tensor,
        unit_lengths: torch.Tensor,
        speaker_embedding: torch.Tensor,
        noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        n_timesteps: int | None = None,
        guidance: float | None = None,
        one_batch: bool = True,
        sounds: torch.Tensor | None = None,
        temperature: float | None = None,
        second_order: bool | None = None,
    ) -> Mel:
        """Mel spectrograms of units (B, U), 50 per second. Call in eval mode.

        sounds: (B, U) index in `phones.SYMBOLS` of the speech sound that each unit belongs to, 0 = unknown; None = all
        unknown. A flow that is not `pronounced` hears only the units.

        noise: (B, M, F) with F = max(n_frames(unit_lengths)), drawn from `generator` when not given.
        n_timesteps, second_order, guidance, temperature: the configuration's unless given; a noise that is given keeps
        its size.
        Raises TasteError when a row is too short to speak.
        """
        frames = self.n_frames(unit_lengths)  # (B,)
        if int(frames.min()) < 1:
            raise TasteError("there are no units to turn into speech; give at least one unit per utterance.")
        mu, speaker, mask = self.encode(units, unit_lengths, frames, speaker_embedding, sounds)
        if noise is None:
            temperature = self.config.temperature if temperature is None else temperature
            # dev: no-start-noise
            noise = temperature * torch.randn(mu.shape, generator=generator, device=mu.device)
        if noise.shape != mu.shape:
            raise TasteError(f"noise must have the shape of the result, {tuple(mu.shape)}, got {tuple(noise.shape)}.")
        n_timesteps = self.config.n_timesteps if n_timesteps is None else n_timesteps
        guidance = self.config.guidance if guidance is None else guidance
        second_order = self.config.second_order if second_order is None else second_order
        mel = self.decoder.sample(noise, mask, mu, speaker, n_timesteps, guidance, one_batch, second_order)
        return Mel(masked(mel * self.config.mel_std + self.config.mel_mean, mask), frames)
