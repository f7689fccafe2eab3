"""Residual vector quantizer with EMA codebooks (paper section 3.1.3).

Four codebooks of 512 vectors turn each word vector into four small integers: each codebook quantizes what the
previous ones left over.

Axes: B batch, N positions, D model width, d codebook width, R quantiser layer, K codebook size.
"""

import hashlib
import math
import random
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from .config import RVQConfig
from .errors import TasteError


@dataclass(frozen=True)
class RVQOutput:
    """quantized: (B, N, D). codes: (B, N, R) int64, -1 where masked or dropped.

    commitment_loss: scalar, sum over layers of the mean squared distance to the chosen codebook vectors.
    usage: (R,) share of each codebook chosen at least once in this batch, in 0..1.
    perplexity: (R,) exp of the entropy of the codes in this batch, in 1..K; 0 for dropped layers.
    """

    quantized: torch.Tensor
    codes: torch.Tensor
    commitment_loss: torch.Tensor
    usage: torch.Tensor
    perplexity: torch.Tensor


class Codebook(nn.Module):
    """K vectors of width d, moved by an exponential moving average of what they quantize instead of by gradients."""

    def __init__(self, config: RVQConfig):
        super().__init__()
        self.decay, self.kmeans_iters = config.decay, config.kmeans_iters
        self.register_buffer("embed", torch.zeros(config.codebook_size, config.codebook_dim))  # (K, d)
        self.register_buffer("embed_avg", torch.zeros(config.codebook_size, config.codebook_dim))  # (K, d)
        self.register_buffer("cluster_size", torch.zeros(config.codebook_size))  # (K,)
        self.register_buffer("initted", torch.zeros(()))

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        """x: (n, d) -> index of the nearest codebook vector (n,); the first one wins ties."""
        squared = x.square().sum(-1, keepdim=True) + self.embed.square().sum(-1) - 2 * x @ self.embed.T
        return squared.clamp(min=0).sqrt().argmin(dim=-1)

    @torch.no_grad()
    def init_kmeans(self, x: torch.Tensor) -> None:
        """Lloyd's algorithm on x: (n, d), from K random rows; an empty cluster keeps its mean."""
        n_codes = len(self.embed)
        rows = torch.randperm(len(x)) if len(x) >= n_codes else torch.randint(len(x), (n_codes,))
        self.embed.copy_(x[rows[:n_codes].to(x.device)])
        if dist.is_initialized():
            dist.broadcast(self.embed, src=0)  # every process starts from the rows of the first one
        for _ in range(self.kmeans_iters):
            sums, counts = self._assign(x, self.nearest(x))
            means = sums / counts.clamp(min=1)[:, None]
            self.embed.copy_(torch.where(counts[:, None] > 0, means, self.embed))
        self.embed_avg.copy_(self.embed * counts[:, None])
        self.cluster_size.copy_(counts)
        self.initted.fill_(1)

    @torch.no_grad()
    def update_ema(self, x: torch.Tensor, codes: torch.Tensor) -> None:
        """One step of the moving average: x (n, d) was quantized to codes (n,)."""
        sums, counts = self._assign(x, codes)
        self.cluster_size.lerp_(counts, 1 - self.decay)
        self.embed_avg.lerp_(sums, 1 - self.decay)
        total, eps = self.cluster_size.sum(), 1e-5
        smoothed = (self.cluster_size + eps) / (total + len(self.embed) * eps) * total
        self.embed.copy_(self.embed_avg / smoothed[:, None])

    def _assign(self, x: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum (K, d) and number (K,) of the vectors assigned to each code, over all training processes."""
        sums = torch.zeros_like(self.embed).index_add_(0, codes, x)
        counts = torch.bincount(codes, minlength=len(self.embed)).to(x)
        if dist.is_initialized():
            dist.all_reduce(sums)
            dist.all_reduce(counts)
        return sums, counts


class ResidualVQ(nn.Module):
    """project_in -> R codebooks on successive residuals -> project_out."""

    def __init__(self, config: RVQConfig):
        super().__init__()
        self.config = config
        self.project_in = nn.Linear(config.d_model, config.codebook_dim)
        self.project_out = nn.Linear(config.codebook_dim, config.d_model)
        self.layers = nn.ModuleList(Codebook(config) for _ in range(config.n_quantizers))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> RVQOutput:
        """x: (B, N, D); mask: (B, N) bool, True = real position. Quantizes in float32 also under autocast.

        In training the codebooks are initialised by k-means on the first batch, follow their moving average, and a
        random number of the last layers is dropped per batch (quantizer dropout).
        Raises TasteError in eval mode when the codebooks were never initialised.
        """
        if not self.training and not all(layer.initted for layer in self.layers):  # dev: rvq-init-in-training
            raise TasteError("the codebooks are empty; load trained weights or run one training step first.")
        if mask is None:
            mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        with torch.autocast(x.device.type, enabled=False):
            return self._quantize(self.project_in(x.float()), mask)

    def _quantize(self, h: torch.Tensor, mask: torch.Tensor) -> RVQOutput:
        n_layers = self.config.n_quantizers
        drop = self.training and self.config.quantizer_dropout
        n_active = random.randint(1, n_layers) if drop else n_layers

        residual = h[mask]  # (n, d), the real positions
        output = torch.zeros_like(residual)
        codes = h.new_full((*h.shape[:2], n_layers), -1, dtype=torch.long)  # (B, N, R)
        loss, usage, perplexity = h.new_zeros(()), h.new_zeros(n_layers), h.new_zeros(n_layers)
        for r, layer in enumerate(self.layers[:n_active]):
            if self.training and not layer.initted:
                layer.init_kmeans(residual.detach())
            indices = layer.nearest(residual.detach())  # (n,)
            chosen = layer.embed[indices]  # (n, d)
            codes[..., r][mask] = indices
            loss = loss + (chosen - residual).square().mean()
            if self.training:
                layer.update_ema(residual.detach(), indices)
            # Straight-through: the value of the codebook vector, the gradient of the residual.
            output = output + residual + (chosen - residual).detach()
            residual = residual - chosen
            share = torch.bincount(indices, minlength=self.config.codebook_size) / max(1, len(indices))
            usage[r] = (share > 0).float().mean()
            perplexity[r] = torch.exp(-(share * share.clamp(min=1e-12).log()).sum())
        if not self.config.sum_straight_through:
            # Every layer passed the identity on, so the gradient to h is n_active times too large. Undo that.
            output = output / n_active + (output - output / n_active).detach()
        quantized = torch.zeros_like(h).masked_scatter(mask[..., None], output)
        return RVQOutput(self.project_out(quantized), codes, loss, usage, perplexity)

    def embed_codes(self, codes: torch.Tensor) -> torch.Tensor:
        """codes: (..., r) with r <= R, -1 = absent -> sum of the codebook vectors (..., d), before project_out."""
        vectors = [
            torch.where(codes[..., r, None] >= 0, self.layers[r].embed[codes[..., r].clamp(min=0)], 0.0)
            for r in range(codes.shape[-1])
        ]
        return torch.stack(vectors).sum(dim=0)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """codes: (..., r) -> TASTE embeddings (..., D), what the unit decoder and the language model read."""
        if codes.shape[-1] > self.config.n_quantizers or codes.max() >= self.config.codebook_size or codes.min() < -1:
            raise TasteError(
                f"codes must be in 0..{self.config.codebook_size - 1} (or -1) for at most "
                f"{self.config.n_quantizers} quantizers; these come from another model."
            )
        return self.project_out(self.embed_codes(codes))

    def encode_embedding(self, z: torch.Tensor) -> torch.Tensor:
        """Residual search from z: (..., d), already in codebook space -> codes (..., R). Used by the latent LM head."""
        flat, codes = z.reshape(-1, z.shape[-1]).float(), []
        for layer in self.layers:
            codes.append(layer.nearest(flat))
            flat = flat - layer.embed[codes[-1]]
        return torch.stack(codes, dim=-1).reshape(*z.shape[:-1], -1)  # (..., R)

    @property
    def fingerprint(self) -> str:
        """Names the codebooks: codes mean nothing beside others. Survives export in float16."""
        books = b"".join(layer.embed.detach().cpu().half().numpy().tobytes() for layer in self.layers)
        return hashlib.sha256(books).hexdigest()[:16]

    @property
    def bits(self) -> float:
        """Bits per position: R * log2 K, 36 for the paper's sizes."""
        return self.config.n_quantizers * math.log2(self.config.codebook_size)


def rename_original(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Original names without the leading `rvq.` -> ours.

    `layers.0._codebook.embed (1, K, d)` becomes `layers.0.embed (K, d)`. Drops the `mlps`, which the original never
    runs. Running averages that are missing start at the codebook vectors.
    """
    ours = {}
    for key, value in weights.items():
        if not key.startswith("mlps."):  # dev: dead-mlps
            ours[key.replace("_codebook.", "")] = value[0] if "_codebook." in key else value
    for key in [key for key in ours if key.endswith(".embed")]:
        ours.setdefault(f"{key}_avg", ours[key].clone())
        ours.setdefault(key.replace(".embed", ".cluster_size"), ours[key].new_ones(len(ours[key])))
    return ours
