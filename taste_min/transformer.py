"""Transformer blocks with relative positions, shared by the unit decoder and the flow encoder.

The attention score of a query at position i and a key at position j has a content part and a position part
(Dai et al. 2019, Transformer-XL): ((q_i + u) . k_j + (q_i + v) . W sin-cos(i - j)) / sqrt(D/H).

Axes: B batch, T positions of the queries, S positions of the keys (S > T when keys are cached), D width, H heads.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


def relative_positions(first: int, last: int, d_model: int, device: torch.device | None = None) -> torch.Tensor:
    """Sine (even columns) and cosine (odd columns) of the distances first, first - 1, ..., last: (n, D)."""
    distances = torch.arange(first, last - 1, -1, device=device, dtype=torch.float32)  # (n,)
    frequencies = torch.exp(torch.arange(0, d_model, 2, device=device) * -(math.log(10000.0) / d_model))  # (D/2,)
    angles = distances[:, None] * frequencies
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)  # (n, D)


def shift_distances(scores: torch.Tensor, n_keys: int) -> torch.Tensor:
    """Turn scores by distance into scores by key: (..., T, n) -> (..., T, S).

    Column c of the input belongs to distance S - 1 - c, so query t (at position S - T + t) finds key j in column
    T - 1 - t + j. One column of padding makes that a reshape instead of a gather. Columns that do not exist (keys
    after the query, when the table stops at distance 0) come out as other finite scores and must be masked.
    """
    *batch, n_queries, n = scores.shape
    flat = F.pad(scores, (1, 0)).reshape(*batch, -1)  # (..., T * (n + 1))
    return flat[..., n_queries:].reshape(*batch, n_queries, n)[..., :n_keys]  # (..., T, S)


@dataclass
class AttentionCache:
    """Keys and values of one layer, stacked (2, B, H, room, D/H) with the first `size` in use, and its projected
    position table (H, n, D/H), n >= size. Both double when they are full, so that a step hardly copies anything."""

    stored: torch.Tensor | None = None
    size: int = 0
    positions: torch.Tensor | None = None

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the newest positions; return all S of them, (B, H, S, D/H) each."""
        before, self.size = self.size, self.size + keys.shape[2]
        if self.stored is None or self.stored.shape[3] < self.size:
            grown = keys.new_empty(2, *keys.shape[:2], 2 * self.size, keys.shape[3])
            if before:
                grown[:, :, :, :before] = self.stored[:, :, :, :before]
            self.stored = grown
        self.stored[0, :, :, before : self.size], self.stored[1, :, :, before : self.size] = keys, values
        return self.stored[0, :, :, : self.size], self.stored[1, :, :, : self.size]


class RelativeAttention(nn.Module):
    """Multi-head self-attention with relative positions and learnt biases u (content) and v (position).

    Written out instead of calling torch's fused attention: the position scores need a gradient and a (B, H, T, S)
    tensor of their own anyway, and on a CPU this is the faster of the two.
    """

    def __init__(self, d_model: int, n_heads: int, dropout: float):
        super().__init__()
        self.d_model, self.n_heads = d_model, n_heads
        self.linear_q = nn.Linear(d_model, d_model)
        self.linear_k = nn.Linear(d_model, d_model)
        self.linear_v = nn.Linear(d_model, d_model)
        self.linear_out = nn.Linear(d_model, d_model)
        self.linear_pos = nn.Linear(d_model, d_model, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.pos_bias_u = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_heads, d_model // n_heads)))
        self.pos_bias_v = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_heads, d_model // n_heads)))

    def forward(
        self, x: torch.Tensor, table: torch.Tensor | None, mask: torch.Tensor, cache: AttentionCache | None = None
    ) -> torch.Tensor:
        """x: (B, T, D); table: (n, D) from `relative_positions`; mask: (B, 1, T, S), True = may attend -> (B, T, D).

        With a cache, x holds the newest positions only and the table is kept in the cache instead.
        """
        q, k, v = (
            linear(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, H, T, D/H)
            for linear in (self.linear_q, self.linear_k, self.linear_v)
        )
        if cache is None:
            positions = self.project(table)  # (H, n, D/H)
        else:
            k, v = cache.append(k, v)  # (B, H, S, D/H)
            positions = self.cached_positions(cache)  # (H, S, D/H)
        scale = q.shape[-1] ** -0.5
        content = (q + self.pos_bias_u[:, None].to(q)) * scale @ k.transpose(-1, -2)  # (B, H, T, S)
        by_distance = (q + self.pos_bias_v[:, None].to(q)) * scale @ positions.transpose(-1, -2)  # (B, H, T, n)
        scores = content + shift_distances(by_distance, k.shape[2])  # (B, H, T, S)
        # The most negative number instead of -inf: a row without any key (left padding) stays finite.
        weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=-1)
        mixed = self.dropout(weights) @ v  # (B, H, T, D/H)
        return self.linear_out(mixed.transpose(1, 2).flatten(2))  # (B, T, D)

    def project(self, table: torch.Tensor) -> torch.Tensor:
        return self.linear_pos(table).unflatten(-1, (self.n_heads, -1)).transpose(0, 1)  # (H, n, D/H)

    def cached_positions(self, cache: AttentionCache) -> torch.Tensor:
        """Projected distances S - 1 .. 0. The table doubles when it is used up, so that steps rarely compute any."""
        n_keys = cache.size
        if cache.positions is None or cache.positions.shape[1] < n_keys:
            cache.positions = self.project(relative_positions(2 * n_keys - 1, 0, self.d_model, cache.stored.device))
        return cache.positions[:, -n_keys:]


class FeedForward(nn.Module):
    def __init__(self, d_model: int, d_ff: int, activation: nn.Module, dropout: float):
        super().__init__()
        self.w_1 = nn.Linear(d_model, d_ff)
        self.w_2 = nn.Linear(d_ff, d_model)
        self.activation, self.dropout = activation, nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w_2(self.dropout(self.activation(self.w_1(x))))


class Block(nn.Module):
    """Pre-norm: x += attention(norm(x)), x += feed_forward(norm(x))."""

    def __init__(
        self, d_model: int, n_heads: int, d_ff: int, activation: nn.Module, dropout: float, attention_dropout: float
    ):
        super().__init__()
        self.norm_mha = nn.LayerNorm(d_model)
        self.self_attn = RelativeAttention(d_model, n_heads, attention_dropout)
        self.norm_ff = nn.LayerNorm(d_model)
        self.feed_forward = FeedForward(d_model, d_ff, activation, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: torch.Tensor, table: torch.Tensor | None, mask: torch.Tensor, cache: AttentionCache | None = None
    ) -> torch.Tensor:
        x = x + self.dropout(self.self_attn(self.norm_mha(x), table, mask, cache))
        return x + self.dropout(self.feed_forward(self.norm_ff(x)))


class InputLayer(nn.Module):
    """Linear, layer norm, dropout (and ReLU in the unit language model), times sqrt(D)."""

    def __init__(self, d_in: int, d_model: int, dropout: float, relu: bool):
        super().__init__()
        layers = [nn.Linear(d_in, d_model), nn.LayerNorm(d_model), nn.Dropout(dropout)]
        self.out = nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.out(x)
        return x * math.sqrt(x.shape[-1])


class RelativeTransformer(nn.Module):
    """A stack of blocks. The encoders use SiLU and no ReLU at the input, the unit language model ReLU and ReLU."""

    def __init__(
        self,
        d_in: int,
        d_model: int,
        n_heads: int,
        d_ff: int,
        n_layers: int,
        causal: bool,
        relu: bool = False,
        dropout: float = 0.1,
        position_dropout: float = 0.1,
        attention_dropout: float = 0.0,
    ):
        super().__init__()
        self.d_model, self.causal = d_model, causal
        self.checkpointing = False  # in training, compute every layer twice instead of keeping its activations
        self.embed = InputLayer(d_in, d_model, dropout, relu)
        activation = nn.ReLU() if relu else nn.SiLU()
        self.encoders = nn.ModuleList(
            Block(d_model, n_heads, d_ff, activation, dropout, attention_dropout) for _ in range(n_layers)
        )
        self.after_norm = nn.LayerNorm(d_model)
        self.position_dropout = nn.Dropout(position_dropout)

    def forward(self, x: torch.Tensor, valid: torch.Tensor, caches: list[AttentionCache] | None = None) -> torch.Tensor:
        """x: (B, T, d_in); valid: (B, S) bool, False = padding that no position may attend to -> (B, T, D).

        With `caches` (from `new_caches`, causal only) x holds the newest T of S positions, and the result equals the
        last T rows of a full computation.
        """
        n_queries, n_keys = x.shape[1], valid.shape[1]
        mask = valid[:, None, None]  # (B, 1, 1, S)
        if self.causal:
            mask = mask & torch.ones(n_queries, n_keys, dtype=torch.bool, device=x.device).tril(n_keys - n_queries)
        table = None
        if caches is None:
            last = 0 if self.causal else 1 - n_keys  # a causal model never looks at negative distances
            table = self.position_dropout(relative_positions(n_keys - 1, last, self.d_model, x.device))  # (n, D)
        x = self.position_dropout(self.embed(x))  # (B, T, D)
        for layer, cache in zip(self.encoders, caches or [None] * len(self.encoders), strict=True):
            if self.checkpointing and self.training:
                x = checkpoint(layer, x, table, mask, use_reentrant=False)
            else:
                x = layer(x, table, mask, cache)
        return self.after_norm(x)

    def new_caches(self) -> list[AttentionCache]:
        return [AttentionCache() for _ in self.encoders]
