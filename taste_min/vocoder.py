"""HiFT: from a mel spectrogram to a waveform (the vocoder of CosyVoice-300M, kept by TASTE).

A small network reads F0 from the mel spectrogram; sines at F0 and its overtones, plus noise, are the source signal;
a HiFi-GAN shapes it and predicts magnitude and phase of a 16-point STFT, which is inverted.

Axes: B batch, F mel frames, S = 256 F samples, M mel bands, C channels, H harmonics, L STFT frames.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from .config import VocoderConfig

SINE_AMPLITUDE, NOISE_AMPLITUDE = 0.1, 0.003
VOICED_HZ = 10.0  # F0 above this is voiced
MAX_MAGNITUDE, MAX_SAMPLE = 100.0, 0.99

# Old weight normalisation (the original checkpoint) -> torch's parametrization
ORIGINAL_NAMES = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}


@dataclass(frozen=True)
class Speech:
    """wav: (B, S) at 22.05 kHz within +-0.99. f0: (B, F) fundamental frequency in Hz."""

    wav: torch.Tensor
    f0: torch.Tensor


class F0Predictor(nn.Module):
    """Five convolutions and a linear layer: mel (B, M, F) -> F0 (B, F) in Hz, near 0 where unvoiced."""

    def __init__(self, n_mels: int, channels: int):
        super().__init__()
        layers = []
        for i in range(5):
            layers += [weight_norm(nn.Conv1d(channels if i else n_mels, channels, 3, padding=1)), nn.ELU()]
        self.condnet = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, 1)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.condnet(mel).transpose(1, 2)).squeeze(-1).abs()


class HarmonicSource(nn.Module):
    """Sines at the harmonics of F0 with noise, mixed to one signal by a learnt linear layer."""

    def __init__(self, config: VocoderConfig):
        super().__init__()
        self.hop, self.sample_rate, self.n_harmonics = config.hop, config.sample_rate, config.n_harmonics
        self.l_linear = nn.Linear(config.n_harmonics, 1)

    def forward(self, f0: torch.Tensor, phase: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """f0: (B, F); phase: (B, H, 1) in radians, the first one is ignored; noise: (B, H, S) -> (B, S)."""
        with torch.no_grad():  # F0 learns from its own loss only
            f0 = f0.float().repeat_interleave(self.hop, dim=1)[:, None]  # (B, 1, S)
            harmonics = torch.arange(1, self.n_harmonics + 1, device=f0.device)[:, None]  # (H, 1)
            cycles = (f0 * harmonics / self.sample_rate).cumsum(dim=-1) % 1  # (B, H, S)
            phase = torch.cat((torch.zeros_like(phase[:, :1]), phase[:, 1:]), dim=1)
            voiced = (f0 > VOICED_HZ).float()
            amplitude = voiced * NOISE_AMPLITUDE + (1 - voiced) * SINE_AMPLITUDE / 3
            sines = SINE_AMPLITUDE * torch.sin(2 * math.pi * cycles + phase)
            sines = sines * voiced + amplitude * noise  # (B, H, S)
        return torch.tanh(self.l_linear(sines.transpose(1, 2))).squeeze(-1)


class Snake(nn.Module):
    """x + sin^2(alpha x) / alpha: an activation that is periodic where it matters (Ziyin et al. 2020)."""

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        alpha = self.alpha[:, None]
        # in place: on a CPU, fresh memory for every operation costs more than the operation
        return torch.addcmul(x, (x * alpha).sin_().square_(), 1 / (alpha + 1e-9))


class ResBlock(nn.Module):
    """For every dilation: x += conv(snake(dilated conv(snake(x))))."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]):
        super().__init__()

        def conv(dilation: int) -> nn.Module:
            return weight_norm(
                nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=dilation * (kernel - 1) // 2)
            )

        self.convs1 = nn.ModuleList(conv(dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(conv(1) for _ in dilations)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv1, conv2, snake1, snake2 in zip(
            self.convs1, self.convs2, self.activations1, self.activations2, strict=True
        ):
            x = x + conv2(snake2(conv1(snake1(x))))
        return x


class Vocoder(nn.Module):
    """The HiFT generator. Names are the original ones except for the weight normalisation (`rename_original`)."""

    def __init__(self, config: VocoderConfig):
        super().__init__()
        self.config = config
        n_stages, n_bins = len(config.upsample_rates), config.n_fft // 2 + 1
        widths = [config.channels >> stage for stage in range(n_stages + 1)]  # halved by every stage
        self.f0_predictor = F0Predictor(config.n_mels, config.f0_channels)
        self.m_source = HarmonicSource(config)
        self.conv_pre = weight_norm(nn.Conv1d(config.n_mels, widths[0], 7, padding=3))
        self.ups = nn.ModuleList()
        self.source_downs, self.source_resblocks = nn.ModuleList(), nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for i, (rate, kernel) in enumerate(zip(config.upsample_rates, config.upsample_kernels, strict=True)):
            c = widths[i + 1]
            self.ups.append(
                weight_norm(nn.ConvTranspose1d(widths[i], c, kernel, stride=rate, padding=(kernel - rate) // 2))
            )
            step = math.prod(config.upsample_rates[i + 1 :])  # STFT frames of the source per frame of this stage
            shape = {"kernel_size": 1} if step == 1 else {"kernel_size": 2 * step, "stride": step, "padding": step // 2}
            self.source_downs.append(nn.Conv1d(2 * n_bins, c, **shape))
            self.source_resblocks.append(ResBlock(c, config.source_kernels[i], config.dilations))
            self.resblocks.extend(ResBlock(c, size, config.dilations) for size in config.resblock_kernels)
        self.conv_post = weight_norm(nn.Conv1d(widths[-1], 2 * n_bins, 7, padding=3))

    def forward(
        self,
        mel: torch.Tensor,
        f0: torch.Tensor | None = None,
        phase: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Speech:
        """mel: (B, M, F) from the flow or `audio.vocoder_mel` -> waveform and the F0 that the network heard.

        f0: (B, F) in Hz replaces the predicted F0 in the source (to change the pitch, or to train on the true one).
        phase: (B, H, 1) in -pi..pi and noise: (B, H, S), standard normal; drawn from `generator` in this order when
        not given. Rows of a batch should have the same length: padding is heard near the end of a shorter row.
        """
        batch, _, n_frames = mel.shape
        n_harmonics, device = self.config.n_harmonics, mel.device
        if phase is None:
            phase = (2 * torch.rand(batch, n_harmonics, 1, generator=generator, device=device) - 1) * math.pi
        if noise is None:
            shape = (batch, n_harmonics, n_frames * self.config.hop)
            noise = torch.randn(shape, generator=generator, device=device)
        predicted = self.f0_predictor(mel).float()  # (B, F)
        source = self.m_source(predicted if f0 is None else f0, phase, noise)  # (B, S)
        return Speech(self.shape_source(mel, source), predicted)

    def shape_source(self, mel: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """The HiFi-GAN part: mel (B, M, F) and source signal (B, S) -> waveform (B, S)."""
        spectrum = torch.view_as_real(self._stft(source.float()))  # (B, n_bins, L, 2)
        spectrum = torch.cat((spectrum[..., 0], spectrum[..., 1]), dim=1)  # (B, 2 n_bins, L), real then imaginary
        x = self.conv_pre(mel)
        n_kernels = len(self.config.resblock_kernels)
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, 0.1))
            if i == len(self.ups) - 1:
                x = F.pad(x, (1, 0), mode="reflect")  # L = S / hop + 1 frames, as the centred STFT has
            x = x + self.source_resblocks[i](self.source_downs[i](spectrum))
            blocks = self.resblocks[i * n_kernels : (i + 1) * n_kernels]
            x = sum(block(x) for block in blocks) / n_kernels
        x = self.conv_post(F.leaky_relu(x, 0.01)).float()  # (B, 2 n_bins, L)
        log_magnitude, phase = x.chunk(2, dim=1)
        # min(exp(x), 100), clipped before the exponential so that the gradient stays finite
        magnitude = log_magnitude.clamp(max=math.log(MAX_MAGNITUDE)).exp()
        wav = self._istft(torch.polar(magnitude, torch.sin(phase)))
        return wav.clamp(-MAX_SAMPLE, MAX_SAMPLE)

    def _stft(self, wav: torch.Tensor) -> torch.Tensor:
        n_fft, hop = self.config.n_fft, self.config.istft_hop
        window = torch.hann_window(n_fft, device=wav.device)
        return torch.stft(wav, n_fft, hop, window=window, center=True, pad_mode="reflect", return_complex=True)

    def _istft(self, spectrum: torch.Tensor) -> torch.Tensor:
        n_fft, hop = self.config.n_fft, self.config.istft_hop
        return torch.istft(spectrum, n_fft, hop, window=torch.hann_window(n_fft, device=spectrum.device), center=True)


def rename_original(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Original names without the leading `hift.` -> ours."""
    for theirs, ours in ORIGINAL_NAMES.items():
        weights = {key.replace(theirs, ours): value for key, value in weights.items()}
    return weights
