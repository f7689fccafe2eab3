"""What the flow and the vocoder learn, with the same members as the objectives of the tokenizer stages.

The paper trains neither: it takes both from CosyVoice-300M. The mini preset has its own.

Axes: B batch, U units, F mel frames, S samples.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from .config import DiscriminatorConfig, TasteConfig
from .data import Batch, FeatureStore
from .discriminators import Discriminators, adversarial_loss, discriminator_loss, feature_matching_loss, mel_loss
from .flow import Flow
from .objectives import Sums
from .vocoder import Vocoder


class FlowObjective(nn.Module):
    """Units -> mel: the flow-matching loss of `Flow.forward`."""

    parts = ("model",)

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
        }

    def _loss(self, batch: Batch, generator: torch.Generator | None = None, prior_only: bool = False) -> torch.Tensor:
        speaker = batch.speaker_embedding
        return self.flow(batch.units, batch.unit_lengths, batch.mel, batch.mel_lengths, speaker, generator, prior_only)

    def prepare(self, batches: Iterable[Batch]) -> None:
        pass

    def finish(self, batches: Iterable[Batch]) -> None:
        pass

    def module(self, part: str) -> nn.Module:
        return self

    def exports(self) -> dict[str, nn.Module]:
        return {"flow": self.flow}


class VocoderObjective(nn.Module):
    """Mel -> waveform: mel and F0 losses from the start, adversaries from `adversary_from` on."""

    parts = ("adversary", "model")

    def __init__(self, config: TasteConfig, discriminators: DiscriminatorConfig, n_frames: int, adversary_from: int):
        """n_frames: mel frames of a training segment. adversary_from: step of the first adversarial loss."""
        super().__init__()
        self.n_frames, self.adversary_from = n_frames, adversary_from
        self.vocoder = Vocoder(config.vocoder)
        self.adversary = Discriminators(discriminators)
        self._speech = None  # of the batch in work, shared by the two parts

    def lengths(self, store: FeatureStore) -> list[int]:
        return [1 for _ in store.rows]

    def load(self, store: FeatureStore, indices: Sequence[int], generator: torch.Generator) -> Batch:
        # Five synthetic voices are few; shifted ones stand in for more.
        # dev: shifted-voices
        return store.segments(indices, self.n_frames, generator, stretch=1.25 if self.training else 1.0)

    def loss(self, batch: Batch, part: str, step: int) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
        """None = this part has nothing to learn at this step."""
        fighting = step >= self.adversary_from
        if part == "adversary":
            self._speech = self.vocoder(batch.mel, f0=batch.f0)
            if not fighting:
                return None, {}
            fake = self._speech.wav.detach()
            loss = discriminator_loss(self.adversary(batch.wav), self.adversary(fake))
            return loss, {"adversary": loss.detach()}
        speech, self._speech = self._speech, None
        mel = mel_loss(speech.wav, batch.wav)
        f0 = nn.functional.l1_loss(speech.f0, batch.f0)
        loss, logs = 45 * mel + 0.05 * f0, {"mel": mel.detach(), "f0_hz": f0.detach()}
        if fighting:
            self.adversary.requires_grad_(False)  # it only passes the gradient on to the vocoder
            real, fake = self.adversary(batch.wav), self.adversary(speech.wav)
            self.adversary.requires_grad_(True)
            loss = loss + adversarial_loss(fake) + 2 * feature_matching_loss(real, fake)
        return loss, logs

    def evaluate(self, batch: Batch, generator: torch.Generator) -> Sums:
        seeded = torch.Generator(batch.mel.device).manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        speech = self.vocoder(batch.mel, generator=seeded)  # with the F0 that the network hears itself
        n = len(batch.mel)
        f0 = nn.functional.l1_loss(speech.f0, batch.f0)
        return {"mel_loss": (mel_loss(speech.wav, batch.wav) * n, n), "f0_hz": (f0 * n, n)}

    def prepare(self, batches: Iterable[Batch]) -> None:
        pass

    def finish(self, batches: Iterable[Batch]) -> None:
        pass

    def module(self, part: str) -> nn.Module:
        return self.adversary if part == "adversary" else self.vocoder

    def exports(self) -> dict[str, nn.Module]:
        return {"vocoder": self.vocoder}
