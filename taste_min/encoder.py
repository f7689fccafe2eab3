"""The frozen Whisper encoder with two taps (paper section 3.1.1).

The last layer (after the final layer norm) knows what was said and becomes the keys of the aggregator; a shallow layer
still knows how it was said and becomes the values.

Axes: B batch, M mel bands, F mel frames (100 per second), T encoder frames (50 per second), D width.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder as HFWhisperEncoder

from .config import EncoderConfig
from .errors import TasteError


@dataclass(frozen=True)
class EncoderOutput:
    """last, shallow: (B, T, D). hidden_states: n_layers + 1 tensors (B, T, D) when asked for, else None.

    `hidden_states[l]` is the residual stream after l layers, before any final layer norm; so
    `shallow == hidden_states[shallow_layer]`, while `last` is the final layer norm of `hidden_states[-1]`.
    """

    last: torch.Tensor
    shallow: torch.Tensor
    hidden_states: list[torch.Tensor] | None = None


class WhisperEncoder(nn.Module):
    """transformers' Whisper encoder, frozen in every training stage."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        hf_config = WhisperConfig(
            num_mel_bins=config.n_mels,
            d_model=config.d_model,
            encoder_layers=config.n_layers,
            encoder_attention_heads=config.n_heads,
            encoder_ffn_dim=config.d_ff,
            max_source_positions=config.n_positions,
        )
        self.encoder = HFWhisperEncoder._from_config(hf_config, attn_implementation="sdpa")
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "WhisperEncoder":
        return super().train(False)  # frozen: no dropout, whatever the surrounding model does

    @torch.no_grad()
    def forward(self, mel: torch.Tensor, all_layers: bool = False) -> EncoderOutput:
        """mel: (B, M, F), F = 2 * n_positions; shorter input is padded with zeros, longer input raises TasteError."""
        n_frames = 2 * self.config.n_positions
        if mel.shape[-1] > n_frames:
            seconds = n_frames // 100
            raise TasteError(f"the encoder takes windows of at most {seconds} s, got {mel.shape[-1] / 100:.1f} s.")
        mel = nn.functional.pad(mel, (0, n_frames - mel.shape[-1]))  # (B, M, 2T)

        stages = [*self.encoder.layers, self.encoder.layer_norm]  # the input of stage l is hidden state l
        taps: dict[int, torch.Tensor] = {}

        def tap(index: int):
            return lambda module, args: taps.__setitem__(index, args[0])

        wanted = range(len(stages)) if all_layers else [self.config.shallow_layer]
        hooks = [stages[index].register_forward_pre_hook(tap(index)) for index in wanted]
        try:
            last = self.encoder(mel.to(self.encoder.conv1.weight.dtype)).last_hidden_state  # (B, T, D)
        finally:
            for hook in hooks:
                hook.remove()
        hidden_states = [taps[index] for index in range(len(stages))] if all_layers else None
        return EncoderOutput(last, taps[self.config.shallow_layer], hidden_states)
