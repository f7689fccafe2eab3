"""What the tokenizer stages learn (paper section 3.1): text only, then without quantizer, then with it.

Every objective is a module with the same members; the flow and the vocoder are in objectives_wave.py.

    parts, module     names of the optimisers that take turns on every batch ("model"; a GAN has two), what they move
    lengths           cost of every utterance, for batches of equal cost
    load              the fields of a batch that this stage reads
    prepare           once, before the first step
    loss              one scalar and numbers to log
    evaluate          sums over positions on held-out speech, per condition
    exports           file name -> module, what the stage is for

Axes: B batch, N text tokens, T encoder frames, U units, D width, d codebook width.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import nn

from .aggregator import Aggregator
from .config import TasteConfig
from .data import Batch, FeatureStore
from .quantizer import ResidualVQ
from .unit_decoder import IGNORE, UnitDecoder

Sums = dict[str, tuple[torch.Tensor, int]]  # name -> (sum, number of positions)


def unit_scores(logits: torch.Tensor, labels: torch.Tensor) -> Sums:
    """Teacher-forced cross-entropy in nats, top-1 and top-5 accuracy over labelled positions, the end included."""
    keep = labels != IGNORE
    logits, labels = logits[keep].float(), labels[keep]
    best = logits.topk(5, dim=-1).indices == labels[:, None]  # (n, 5)
    n = len(labels)
    return {
        "cross_entropy": (nn.functional.cross_entropy(logits, labels, reduction="sum"), n),
        "top1": (best[:, 0].sum(), n),
        "top5": (best.sum(), n),
    }


@torch.no_grad()
def start_quantizer(quantizer: ResidualVQ, rows: torch.Tensor, n_batches: int) -> None:
    """Start a quantizer from word vectors (n, D) of many batches, so that its output resembles its input at once.

    project_in takes the leading principal components, project_out puts them back. The codebooks are clustered on all
    rows instead of one batch, which at this size has fewer rows than a codebook.
    """
    # dev: rvq-pca-init
    # dev: kmeans-batches
    mean = rows.mean(dim=0)
    _, _, components = torch.linalg.svd(rows - mean, full_matrices=False)
    axes = components[: quantizer.config.codebook_dim]  # (d, D)
    quantizer.project_in.weight.copy_(axes)
    quantizer.project_in.bias.copy_(-axes @ mean)
    quantizer.project_out.weight.copy_(axes.T)
    quantizer.project_out.bias.copy_(mean)
    residual = quantizer.project_in(rows)  # (n, d)
    if dist.is_initialized():  # every process holds the same rows; the codebooks add theirs up
        residual = residual[dist.get_rank() :: dist.get_world_size()]
    for layer in quantizer.layers:
        layer.init_kmeans(residual)
        residual = residual - layer.embed[layer.nearest(residual)]
        # as if one batch had been counted, so that the first steps move the codebooks
        layer.cluster_size /= n_batches
        layer.embed_avg /= n_batches


class TokenizerObjective(nn.Module):
    """Speech units from text and, from the second stage on, TASTE embeddings: cross-entropy + commitment loss."""

    parts = ("model",)

    def __init__(self, config: TasteConfig, audio: bool, quantize: bool, values: str | None = None):
        """audio: use the aggregator. quantize: with the RVQ. values: encoder layer for V, default the preset's tap."""
        super().__init__()
        self.audio, self.quantize = audio, quantize
        self.values = values or f"hidden_{config.encoder.shallow_layer}"
        self.unit_decoder = UnitDecoder(config.unit_decoder)
        if audio:
            self.aggregator = Aggregator(config.aggregator)
            # The two tables hold two thirds of the weights and hear no audio.
            # dev: frozen-embeddings
            self.aggregator.embed_tokens.requires_grad_(False)
            self.aggregator.embed_positions.requires_grad_(False)
        else:
            for name, parameter in self.unit_decoder.named_parameters():
                parameter.requires_grad_(not name.startswith(("audio_", "fusion")))
        if quantize:
            self.quantizer = ResidualVQ(config.rvq)

    def lengths(self, store: FeatureStore) -> list[int]:
        return [row["n_tokens"] + 3 + row["n_units"] for row in store.rows]

    def load(self, store: FeatureStore, indices: Sequence[int], generator: torch.Generator) -> Batch:
        return store.text_and_units(indices, self.values if self.audio else None)

    def word_vectors(self, batch: Batch) -> torch.Tensor:
        """The aggregator's output, one vector per token: (B, N, D)."""
        return self.aggregator(
            batch.token_ids,
            batch.word_ids,
            batch.token_lengths,
            batch.last,
            batch.values,
            key_lengths=batch.frame_lengths,
        ).pooled

    def token_mask(self, batch: Batch) -> torch.Tensor:
        positions = torch.arange(batch.token_ids.shape[1], device=batch.token_ids.device)
        return positions < batch.token_lengths[:, None]  # (B, N)

    def predict(self, batch: Batch, taste: torch.Tensor | None):
        return self.unit_decoder(
            batch.token_ids,
            batch.token_lengths,
            batch.units,
            batch.unit_lengths,
            batch.speaker_embedding,
            taste,
            text_only=taste is None,
        )

    def loss(self, batch: Batch, part: str, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        taste, extra, penalty = None, {}, 0.0
        if self.audio:
            taste = self.word_vectors(batch)
        if self.quantize:
            result = self.quantizer(taste, self.token_mask(batch))
            taste, penalty = result.quantized, result.commitment_loss
            extra = {"commitment": result.commitment_loss.detach(), "perplexity": result.perplexity[0]}
        prediction = self.predict(batch, taste)
        scores = {k: total / n for k, (total, n) in unit_scores(prediction.logits.detach(), prediction.labels).items()}
        return prediction.loss + penalty, scores | extra

    def evaluate(self, batch: Batch, generator: torch.Generator) -> Sums:
        """With audio also the control "shuffled": every token gets the TASTE vector of another one in the batch."""
        taste = None
        if self.audio:
            taste, mask = self.word_vectors(batch), self.token_mask(batch)
        if self.quantize:
            taste = self.quantizer(taste, mask).quantized
        prediction = self.predict(batch, taste)
        sums = unit_scores(prediction.logits, prediction.labels)
        if self.audio:
            order = torch.randperm(int(mask.sum()), generator=generator).to(mask.device)
            shuffled = torch.zeros_like(taste).masked_scatter(mask[..., None], taste[mask][order])
            control = self.predict(batch, shuffled)
            sums |= {f"shuffled_{k}": v for k, v in unit_scores(control.logits, control.labels).items()}
        return sums

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Before the first step with the quantizer: start its projections and codebooks from real word vectors."""
        if self.quantize:
            rows = [self.word_vectors(batch)[self.token_mask(batch)] for batch in batches]
            start_quantizer(self.quantizer, torch.cat(rows).float(), len(rows))

    def module(self, part: str) -> nn.Module:
        return self

    def exports(self) -> dict[str, nn.Module]:
        parts = {"unit_decoder": self.unit_decoder}
        if self.audio:
            parts["aggregator"] = self.aggregator
        if self.quantize:
            parts["quantizer"] = self.quantizer
        return parts
