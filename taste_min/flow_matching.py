"""Conditional flow matching: the path, its loss, and the sampler (the flow of CosyVoice-300M, kept by TASTE).

A network learns the velocity that carries Gaussian noise to the mel spectrogram along straight lines (Lipman et al.
2023); in the mini preset the lines begin near mu instead. Sampling is Euler's method with classifier-free guidance.

Axes: B batch, F mel frames, M mel bands.
"""

import math

import torch
from torch import nn

from .config import FlowConfig
from .unet import UNet, masked


def cosine_time(t: torch.Tensor) -> torch.Tensor:
    """Warp uniform time 0..1 so that most steps are spent near the noise."""
    return 1 - torch.cos(t * (0.5 * math.pi))


class FlowMatching(nn.Module):
    """The probability path, its training loss, and the sampler. The U-Net is `estimator`, as in the original.

    Paths begin at Gaussian noise; with `start_at_mu` at mu, a mel spectrogram without fine detail, plus a little noise.
    """

    sigma_min = 1e-6  # standard deviation left around the target at t = 1

    def __init__(self, config: FlowConfig):
        super().__init__()
        self.config = config
        self.estimator = UNet(config)

    def loss(
        self,
        mel: torch.Tensor,
        mask: torch.Tensor | None,
        mu: torch.Tensor,
        speaker: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Mean squared error of the velocity at one random time per sample. mel, mu: (B, M, F); speaker: (B, M)."""
        n, device = len(mel), mel.device
        t = cosine_time(torch.rand(n, generator=generator, device=device))  # (B,)
        noise = torch.randn(mel.shape, generator=generator, device=device)
        begin = self.begin(noise, mu.detach())
        keep = torch.rand(n, generator=generator, device=device) > self.config.condition_dropout  # (B,)
        mu, speaker = mu * keep[:, None, None], speaker * keep[:, None]

        time = t[:, None, None]
        point = (1 - (1 - self.sigma_min) * time) * begin + time * mel  # on the line from the beginning to mel
        velocity = mel - (1 - self.sigma_min) * begin
        predicted = self.estimator(point, mask, mu, t, speaker, torch.zeros_like(mu))
        error = masked(predicted.float() - velocity, mask).square().sum()
        n_frames = mel.shape[0] * mel.shape[2] if mask is None else mask.sum()
        return error / (n_frames * mel.shape[1])

    def begin(self, noise: torch.Tensor, mu: torch.Tensor) -> torch.Tensor:
        """Where the paths begin, given standard normal noise and mu, all (B, M, F)."""
        # dev: start-at-mu
        return self.config.noise_scale * noise + mu if self.config.start_at_mu else noise

    @torch.no_grad()
    def sample(
        self,
        noise: torch.Tensor,
        mask: torch.Tensor | None,
        mu: torch.Tensor,
        speaker: torch.Tensor,
        n_timesteps: int,
        guidance: float,
        one_batch: bool = True,
        second_order: bool = False,
    ) -> torch.Tensor:
        """Euler steps from noise (B, M, F) to a mel spectrogram (B, M, F); of `second_order` fewer do (fast.py).

        The steps start from `begin(noise, mu)`. Each needs the velocity with and without the condition; `one_batch`
        computes both in one call. With guidance 0 the one with the condition is enough.
        """
        times = cosine_time(torch.linspace(0, 1, n_timesteps + 1, device=noise.device))
        before = None  # velocity and length of the step before
        x, nothing, no_speaker = self.begin(noise, mu), torch.zeros_like(mu), torch.zeros_like(speaker)
        both_mask = None if mask is None else torch.cat((mask, mask))
        for start, end in zip(times[:-1], times[1:], strict=True):
            t = start.expand(len(x))  # (B,)
            if guidance == 0:
                guided = free = self.estimator(x, mask, mu, t, speaker, nothing)
            elif one_batch:
                conditions = torch.cat((mu, nothing)), torch.cat((t, t)), torch.cat((speaker, no_speaker))
                both = self.estimator(torch.cat((x, x)), both_mask, *conditions, torch.cat((nothing, nothing)))
                guided, free = both.chunk(2)
            else:
                guided = self.estimator(x, mask, mu, t, speaker, nothing)
                free = self.estimator(x, mask, nothing, t, no_speaker, nothing)
            velocity, step = (1 + guidance) * guided - guidance * free, end - start
            x = x + step * velocity
            if second_order and before is not None:  # dev: second-order
                # Adams-Bashforth: the velocity goes on changing as it did during the step before
                x = x + step * step / (2 * before[1]) * (velocity - before[0])
            before = velocity, step
        return masked(x, mask)
