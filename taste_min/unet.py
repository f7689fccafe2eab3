"""The velocity field of the flow: a one-dimensional U-Net over mel frames (CosyVoice-300M's estimator).

Two resolutions (F and F/2 frames), each with ResNet and transformer blocks; the module names are the original ones.

Axes: B batch, F mel frames, M mel bands, C channels, H heads. A mask is (B, 1, F) with 1 for real frames, or None when
no frame is padding.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .config import FlowConfig


def masked(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return x if mask is None else x * mask


class MaskedGroupNorm(nn.GroupNorm):
    """Group normalisation whose mean and variance do not see padding."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        if mask is None:
            return super().forward(x)
        # dev: flow-padding-mask  the original averages over padding too
        with torch.autocast(x.device.type, enabled=False):
            groups = x.float().unflatten(1, (self.num_groups, -1))  # (B, G, C/G, F)
            real = mask.float()[:, None]  # (B, 1, 1, F)
            count = real.sum(dim=(2, 3), keepdim=True) * groups.shape[2]
            mean = (groups * real).sum(dim=(2, 3), keepdim=True) / count
            variance = ((groups - mean).square() * real).sum(dim=(2, 3), keepdim=True) / count
            normed = ((groups - mean) * torch.rsqrt(variance + self.eps)).flatten(1, 2)  # (B, C, F)
            return normed * self.weight[:, None] + self.bias[:, None]


class ConvBlock(nn.Module):
    """Convolution over 3 frames, group norm, Mish."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.block = nn.Sequential(nn.Conv1d(c_in, c_out, 3, padding=1), MaskedGroupNorm(8, c_out), nn.Mish())

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        conv, norm, activation = self.block
        return masked(activation(norm(conv(masked(x, mask)), mask)), mask)


class ResnetBlock(nn.Module):
    """Two convolution blocks with the time embedding added in between, and a 1x1 convolution as shortcut."""

    def __init__(self, c_in: int, c_out: int, d_time: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(d_time, c_out))
        self.block1 = ConvBlock(c_in, c_out)
        self.block2 = ConvBlock(c_out, c_out)
        self.res_conv = nn.Conv1d(c_in, c_out, 1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None, time: torch.Tensor) -> torch.Tensor:
        h = self.block1(x, mask) + self.mlp(time)[:, :, None]
        return self.block2(h, mask) + self.res_conv(masked(x, mask))


class Attention(nn.Module):
    def __init__(self, channels: int, n_heads: int, head_dim: int):
        super().__init__()
        self.n_heads = n_heads
        self.to_q = nn.Linear(channels, n_heads * head_dim, bias=False)
        self.to_k = nn.Linear(channels, n_heads * head_dim, bias=False)
        self.to_v = nn.Linear(channels, n_heads * head_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(n_heads * head_dim, channels))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        q, k, v = (
            linear(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, H, F, C/H)
            for linear in (self.to_q, self.to_k, self.to_v)
        )
        # dev: flow-padding-mask  the original adds 1 to the scores of real pairs, which padding survives
        keys = None if mask is None else mask[:, None].bool()  # (B, 1, 1, F)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=keys)
        return self.to_out(mixed.transpose(1, 2).flatten(2))  # (B, F, C)


class GELULinear(nn.Module):
    def __init__(self, d_in: int, d_out: int):
        super().__init__()
        self.proj = nn.Linear(d_in, d_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.proj(x))


class FeedForward(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.net = nn.Sequential(GELULinear(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward over the frames, without positions: the convolutions give the order."""

    def __init__(self, config: FlowConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.channels)
        self.attn1 = Attention(config.channels, config.n_unet_heads, config.head_dim)
        self.norm3 = nn.LayerNorm(config.channels)
        self.ff = FeedForward(config.channels)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        x = x + self.attn1(self.norm1(x), mask)
        return x + self.ff(self.norm3(x))


class TimeEmbedding(nn.Module):
    """Sines and cosines of 1000 t, then two linear layers: (B,) -> (B, d_time)."""

    def __init__(self, d_in: int, d_time: int):
        super().__init__()
        self.half = d_in // 2
        self.linear_1 = nn.Linear(d_in, d_time)
        self.linear_2 = nn.Linear(d_time, d_time)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        exponents = torch.arange(self.half, device=t.device) * -(math.log(10000.0) / (self.half - 1))
        angles = 1000 * t[:, None] * exponents.exp()  # (B, d_in / 2)
        waves = torch.cat((angles.sin(), angles.cos()), dim=-1)
        return self.linear_2(F.silu(self.linear_1(waves)))


class Resample(nn.Module):
    """Holds a convolution under the original name `conv`: stride 2 down, or transposed stride 2 up."""

    def __init__(self, conv: nn.Module):
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class UNet(nn.Module):
    """Velocity of the flow at time t, given the condition (mu, speaker, prompt)."""

    def __init__(self, config: FlowConfig):
        super().__init__()
        c, d_in = config.channels, 4 * config.n_mels
        self.time_mlp = TimeEmbedding(d_in, 4 * c)

        def stage(c_in: int, resample: nn.Module | None = None) -> nn.ModuleList:
            blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.n_blocks))
            parts = [ResnetBlock(c_in, c, 4 * c), blocks]
            return nn.ModuleList(parts if resample is None else [*parts, resample])

        same = [nn.Conv1d(c, c, 3, padding=1) for _ in range(2)]
        down = Resample(nn.Conv1d(c, c, 3, stride=2, padding=1))
        up = Resample(nn.ConvTranspose1d(c, c, 4, stride=2, padding=1))
        self.down_blocks = nn.ModuleList((stage(d_in, down), stage(c, same[0])))
        self.mid_blocks = nn.ModuleList(stage(c) for _ in range(config.n_mid_stages))
        self.up_blocks = nn.ModuleList((stage(2 * c, up), stage(2 * c, same[1])))
        self.final_block = ConvBlock(c, c)
        self.final_proj = nn.Conv1d(c, config.n_mels, 1)

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None,
        mu: torch.Tensor,
        t: torch.Tensor,
        speaker: torch.Tensor,
        prompt: torch.Tensor,
    ) -> torch.Tensor:
        """x, mu, prompt: (B, M, F); t: (B,) in 0..1; speaker: (B, M) -> velocity (B, M, F), 0 on padding."""
        time = self.time_mlp(t)  # (B, d_time)
        x = torch.cat((x, mu, speaker[:, :, None].expand_as(mu), prompt), dim=1)  # (B, 4M, F)
        half = None if mask is None else mask[:, :, ::2]  # (B, 1, ceil(F/2))

        skips = []
        for (resnet, blocks, resample), level in zip(self.down_blocks, (mask, half), strict=True):
            x = self._stage(resnet, blocks, x, level, time)
            skips.append(x)
            x = resample(masked(x, level))
        for resnet, blocks in self.mid_blocks:
            x = self._stage(resnet, blocks, x, half, time)
        for (resnet, blocks, resample), level in zip(self.up_blocks, (half, mask), strict=True):
            skip = skips.pop()
            x = torch.cat((x[:, :, : skip.shape[2]], skip), dim=1)  # up-sampling an odd length gives a frame too many
            x = self._stage(resnet, blocks, x, level, time)
            x = resample(masked(x, level))
        x = self.final_block(x, mask)
        return masked(self.final_proj(masked(x, mask)), mask)

    @staticmethod
    def _stage(
        resnet: nn.Module, blocks: nn.ModuleList, x: torch.Tensor, mask: torch.Tensor | None, time: torch.Tensor
    ) -> torch.Tensor:
        x = resnet(x, mask, time).transpose(1, 2)  # (B, F, C)
        for block in blocks:
            x = block(x, mask)
        return x.transpose(1, 2)  # (B, C, F)
