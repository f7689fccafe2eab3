"""Faster decoding with the same modules. The paper does not speak of it; what changes the result is an option.

`fast(taste)` keeps the numbers up to rounding: weight normalisation is folded into the weights once, and convolutions
keep the channels of a frame together in memory. `int8` stores linear layers in 8 bits, for processors without bfloat16
units: a step of the unit decoder costs what it costs to read its weights once. `steps` solves the flow in fewer steps
of the second order. `taste-min bench` measures all three. The encoder half is left alone, so codes stay the same.

Axes: B batch, C channels, L frames.
"""

import warnings
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from .errors import TasteError
from .speech_decoder import SpeechDecoder


class Int8Linear(nn.Module):
    """A linear layer with 8-bit weights, scaled per output, and 8-bit inputs, scaled per call; inference on a CPU."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        if linear.weight.device.type != "cpu":
            raise TasteError("int8 is for processors; use bfloat16 on a GPU.")
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1).double().clamp(min=1e-12) / 127  # (outputs,)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch plans another way to make such tensors
            weight = torch.quantize_per_channel(weight, scale, torch.zeros_like(scale).long(), 0, torch.qint8)
        self.packed = torch.ops.quantized.linear_prepack(weight, linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # 7 bits of the input: sums of products of 8 bits overflow on processors without VNNI
        return torch.ops.quantized.linear_dynamic(x, self.packed, reduce_range=True)


class ChannelsLastConv(nn.Module):
    """A Conv1d, (B, C, L) -> (B, C, L), whose tensors lie in memory as (B, L, C); inference only."""

    def __init__(self, conv: nn.Conv1d):
        super().__init__()
        weight = conv.weight.detach()[:, :, None].contiguous(memory_format=torch.channels_last)  # (C, C, 1, k)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach())
        self.shape = (1, *conv.stride), (0, *conv.padding), (1, *conv.dilation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, :, None].contiguous(memory_format=torch.channels_last)  # (B, C, 1, L)
        return F.conv2d(x, self.weight, self.bias, *self.shape)[:, :, 0]


class FoldedTranspose(nn.Module):
    """A ConvTranspose1d whose weights are normalised once; inference only."""

    def __init__(self, conv: nn.ConvTranspose1d):
        super().__init__()
        self.register_buffer("weight", conv.weight.detach())
        self.register_buffer("bias", conv.bias.detach())
        self.shape = conv.stride, conv.padding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv_transpose1d(x, self.weight, self.bias, *self.shape)


def convert(module: nn.Module, int8: bool = False) -> None:
    """Replace the layers of a module, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv1d):  # also with weight normalisation, which has a class of its own
            setattr(module, name, ChannelsLastConv(child))
        elif isinstance(child, nn.ConvTranspose1d):
            setattr(module, name, FoldedTranspose(child))
        elif isinstance(child, nn.Linear) and int8:
            setattr(module, name, Int8Linear(child))
        else:
            convert(child, int8)


def fast(taste: SpeechDecoder, int8: bool = False, steps: int | None = None) -> SpeechDecoder:
    """Make the decoder half of a model faster, in place, for inference; returns the model.

    int8: 8-bit linear layers in unit decoder and flow (the vocoder has hardly any), CPU only. steps: of the flow, of
    second order. Raises TasteError for int8 on a GPU.
    """
    for part in (taste.unit_decoder, taste.text_only_decoder, taste.flow):
        if part is not None:
            convert(part, int8)
    if taste.vocoder is not None:
        convert(taste.vocoder)
    if steps is not None and taste.flow is not None:
        taste.flow.config = replace(taste.flow.config, n_timesteps=steps, second_order=True)
    return taste
