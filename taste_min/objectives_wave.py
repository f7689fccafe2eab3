"""What the flow and the vocoder learn, each as an `objectives.Objective`.

The paper trains neither: it takes both from CosyVoice-300M. The mini preset has its own.

Axes: B batch, U units, F mel frames, S samples.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from .audio import MEL_HOP
from .config import DiscriminatorConfig, TasteConfig
from .data import Batch, FeatureStore
from .discriminators import Discriminators, adversarial_loss, discriminator_loss, feature_matching_loss, mel_loss
from .flow import Flow
from .objectives import Objective, Sums
from .vocoder import Vocoder


class FlowObjective(Objective):
    """Units -> mel: the flow-matching loss of `Flow.forward`."""

    def __init__(self, config: TasteConfig, unet_from: int):
        """unet_from: step of the first U-Net loss; until then the unit encoder learns alone, in cheaper steps."""
        super().__init__()
        self.flow, self.unet_from = Flow(config.flow), unet_from

    def lengths(self, store: FeatureStore) -> list[int]:
        return [row["n_mels"] for row in store.rows]

    def load(self, store: FeatureStore, indices: Sequence[int], generator: torch.Generator) -> Batch:
        return store.units_and_mel(indices)

    def loss(self, batch: Batch, part: str, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self._loss(batch, prior_only=step < self.unet_from), {}

    def evaluate(self, batch: Batch, generator: torch.Generator) -> Sums:
        frames = int(batch.mel_lengths.sum())
        seeded = torch.Generator(batch.mel.device).manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        return {
            "flow_loss": (self._loss(batch, seeded) * frames, frames),
            "prior_loss": (self._loss(batch, prior_only=True) * frames, frames),
            "units_only_prior_loss": (self._loss(replace(batch, sounds=None), prior_only=True) * frames, frames),
        }

    def _loss(self, batch: Batch, generator: torch.Generator | None = None, prior_only: bool = False) -> torch.Tensor:
        speaker = batch.speaker_embedding
        lengths = batch.unit_lengths, batch.mel_lengths
        return self.flow(
            batch.units, lengths[0], batch.mel, lengths[1], speaker, generator, prior_only, sounds=batch.sounds
        )

    def exports(self) -> dict[str, nn.Module]:
        return {"flow": self.flow}


class VocoderObjective(Objective):
    """Mel -> waveform: mel and F0 losses from the start, adversaries from `adversary_from` on."""

    parts = ("adversary", "model")

    def __init__(
        self,
        config: TasteConfig,
        discriminators: DiscriminatorConfig,
        n_frames: int,
        n_pitch_frames: int,
        adversary_from: int,
        after_flow: bool = False,
    ):
        """n_frames: mel frames of a training segment; the F0 network, which is cheap, learns from n_pitch_frames.

        adversary_from: step of the first adversarial loss. after_flow: half of every batch is read not from the mel
        spectrogram of the recording but from what the frozen flow's unit encoder makes of its units.
        """
        super().__init__()
        self.n_frames, self.n_pitch_frames = n_frames, n_pitch_frames
        self.adversary_from, self.after_flow = adversary_from, after_flow
        self.vocoder = Vocoder(config.vocoder)
        self.adversary = Discriminators(discriminators)
        if after_flow:
            self.flow = Flow(config.flow).requires_grad_(False)
        self._speech = None  # of the batch in work, shared by the two parts

    def lengths(self, store: FeatureStore) -> list[int]:
        return [1 for _ in store.rows]

    def load(self, store: FeatureStore, indices: Sequence[int], generator: torch.Generator) -> Batch:
        # Five synthetic voices are few; shifted ones stand in for more.
        # dev: shifted-voices
        stretch = 1.25 if self.training and not self.after_flow else 1.0
        batch = store.segments(indices, self.n_pitch_frames, generator, stretch)
        if not (self.after_flow and self.training):
            return batch
        half = indices[: len(indices) // 2]
        return replace(batch, mel=torch.cat((self.flow_mel(store, half, batch.starts), batch.mel[len(half) :])))

    @torch.no_grad()
    def flow_mel(self, store: FeatureStore, indices: Sequence[int], starts: torch.Tensor) -> torch.Tensor:
        """mu of the flow's unit encoder on the scale of the log-mel, n_pitch_frames from starts (B,) on: (B, M, F)."""
        # dev: vocoder-after-flow
        batch, flow = store.units_and_mel(indices), self.flow.eval()
        batch = batch.to(flow.encoder_proj.weight.device)
        mu, *_ = flow.encode(batch.units, batch.unit_lengths, batch.mel_lengths, batch.speaker_embedding, batch.sounds)
        mu = mu.cpu() * flow.config.mel_std + flow.config.mel_mean
        return torch.stack([row[:, s : s + self.n_pitch_frames] for row, s in zip(mu, starts.tolist(), strict=False)])

    def loss(self, batch: Batch, part: str, step: int) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
        """None = this part has nothing to learn at this step."""
        fighting = step >= self.adversary_from
        first = 13 * step % (self.n_pitch_frames - self.n_frames + 1)  # moves on, but is the same for both parts
        frames, samples = slice(first, first + self.n_frames), slice(first * MEL_HOP, (first + self.n_frames) * MEL_HOP)
        real = batch.wav[:, samples]
        if part == "adversary":
            self._speech = self.vocoder(batch.mel[:, :, frames], f0=batch.f0[:, frames])
            if not fighting:
                return None, {}
            fake = self._speech.wav.detach()
            loss = discriminator_loss(self.adversary(real), self.adversary(fake))
            return loss, {"adversary": loss.detach()}
        speech, self._speech = self._speech, None
        mel = mel_loss(speech.wav, real)
        f0 = nn.functional.l1_loss(self.vocoder.f0_predictor(batch.mel).float(), batch.f0)
        loss, logs = 45 * mel + 0.05 * f0, {"mel": mel.detach(), "f0_hz": f0.detach()}
        if fighting:
            self.adversary.requires_grad_(False)  # it only passes the gradient on to the vocoder
            heard, fake = self.adversary(real), self.adversary(speech.wav)
            self.adversary.requires_grad_(True)
            loss = loss + adversarial_loss(fake) + 2 * feature_matching_loss(heard, fake)
        return loss, logs

    def evaluate(self, batch: Batch, generator: torch.Generator) -> Sums:
        seeded = torch.Generator(batch.mel.device).manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        speech = self.vocoder(batch.mel, generator=seeded)  # with the F0 that the network hears itself
        n = len(batch.mel)
        f0 = nn.functional.l1_loss(speech.f0, batch.f0)
        return {"mel_loss": (mel_loss(speech.wav, batch.wav) * n, n), "f0_hz": (f0 * n, n)}

    def module(self, part: str) -> nn.Module:
        return self.adversary if part == "adversary" else self.vocoder

    def exports(self) -> dict[str, nn.Module]:
        return {"vocoder": self.vocoder}
