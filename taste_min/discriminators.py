"""Adversaries and losses to train the vocoder. The paper takes a published vocoder; the mini preset trains its own.

Multi-period discriminators see the waveform folded at prime periods (Kong et al. 2020, HiFi-GAN), multi-resolution
discriminators see its spectrogram (Jang et al. 2021, UnivNet). HiFi-GAN's generator objective is
`adversarial_loss + 2 * feature_matching_loss + 45 * mel_loss`; HiFT adds an L1 loss between predicted and true F0.

Axes: B batch, S samples, C channels, F STFT frames, M mel bands.
"""

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from .config import DiscriminatorConfig


@dataclass(frozen=True)
class Judgement:
    """scores: one tensor per discriminator, 1 = real, 0 = fake. features: its activations, layer by layer."""

    scores: list[torch.Tensor]
    features: list[list[torch.Tensor]]


def magnitude(wav: torch.Tensor, n_fft: int) -> torch.Tensor:
    """STFT magnitude with hop n_fft / 4: (B, S) -> (B, n_fft // 2 + 1, F), in float32."""
    window = torch.hann_window(n_fft, device=wav.device)
    stft = torch.stft(wav.float(), n_fft, n_fft // 4, window=window, return_complex=True)
    return torch.sqrt(stft.real.square() + stft.imag.square() + 1e-9)


class PeriodDiscriminator(nn.Module):
    """Folds the waveform into rows of `period` samples, then looks along the columns only."""

    def __init__(self, period: int, channels: tuple[int, ...]):
        super().__init__()
        self.period = period
        widths = (1, *channels)
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(c_in, c_out, (5, 1), stride=(3, 1), padding=(2, 0)))
            for c_in, c_out in zip(widths[:-1], widths[1:], strict=True)
        )
        self.last = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, wav: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """wav: (B, S) -> scores (B, n), features."""
        x = F.pad(wav[:, None], (0, -wav.shape[1] % self.period), mode="reflect")  # (B, 1, S')
        return _run(self.convs, self.last, x.unflatten(2, (-1, self.period)))  # in: (B, 1, S' / period, period)


class SpectralDiscriminator(nn.Module):
    """Convolutions over the magnitude spectrogram, halving the frequency axis."""

    def __init__(self, n_fft: int, channels: int):
        super().__init__()
        self.n_fft = n_fft
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(c_in, channels, (7, 3), stride=(stride, 1), padding=(3, 1)))
            for c_in, stride in ((1, 1), (channels, 2), (channels, 2), (channels, 2))
        )
        self.last = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, wav: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """wav: (B, S) -> scores (B, n), features."""
        return _run(self.convs, self.last, magnitude(wav, self.n_fft)[:, None])  # in: (B, 1, bins, F)


def _run(convs: nn.ModuleList, last: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    features = []
    for conv in convs:
        x = F.leaky_relu(conv(x), 0.1)
        features.append(x)
    return last(x).flatten(1), features


class Discriminators(nn.Module):
    """All period and spectral discriminators."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.judges = nn.ModuleList(
            [PeriodDiscriminator(period, config.period_channels) for period in config.periods]
            + [SpectralDiscriminator(n_fft, config.spectral_channels) for n_fft in config.n_ffts]
        )

    def forward(self, wav: torch.Tensor) -> Judgement:
        """wav: (B, S), at least max(n_ffts) / 2 samples."""
        scores, features = zip(*(judge(wav) for judge in self.judges), strict=True)
        return Judgement(list(scores), list(features))


def discriminator_loss(real: Judgement, fake: Judgement) -> torch.Tensor:
    """Least-squares GAN: real speech should score 1, generated speech 0. Sum over discriminators."""
    pairs = zip(real.scores, fake.scores, strict=True)
    return torch.stack([(1 - r).float().square().mean() + f.float().square().mean() for r, f in pairs]).sum()


def adversarial_loss(fake: Judgement) -> torch.Tensor:
    """Least-squares GAN, the generator's side: generated speech should score 1."""
    return torch.stack([(1 - f).float().square().mean() for f in fake.scores]).sum()


def feature_matching_loss(real: Judgement, fake: Judgement) -> torch.Tensor:
    """Mean absolute difference of every discriminator layer; no gradient to the real side."""
    pairs = zip(sum(real.features, []), sum(fake.features, []), strict=True)
    return torch.stack([F.l1_loss(f.float(), r.detach().float()) for r, f in pairs]).sum()


@functools.cache
def _mel_filters(n_mels: int, n_fft: int, sample_rate: int) -> torch.Tensor:
    import torchaudio

    return torchaudio.functional.melscale_fbanks(
        n_fft // 2 + 1, 0.0, sample_rate / 2, n_mels, sample_rate, norm="slaney", mel_scale="slaney"
    )  # (bins, M)


def mel_loss(
    wav: torch.Tensor, target: torch.Tensor, sample_rate: int = 22050, n_ffts: tuple[int, ...] = (512, 1024, 2048)
) -> torch.Tensor:
    """L1 distance of natural-log mel spectrograms (up to half the rate), mean over resolutions. wav, target: (B, S)."""
    losses = []
    for n_fft in n_ffts:
        filters = _mel_filters(n_fft // 16, n_fft, sample_rate).to(wav.device).T  # (M, bins)
        ours, theirs = ((filters @ magnitude(x, n_fft)).clamp(min=1e-5).log() for x in (wav, target))
        losses.append(F.l1_loss(ours, theirs))
    return torch.stack(losses).mean()
