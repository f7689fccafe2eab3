"""What the tokenizer stages learn (paper section 3.1): text only, then without quantizer, then with it.

Flow and vocoder are in objectives_wave.py, the language models in objectives_taslm.py.

Axes: B batch, N text tokens, T encoder frames, U units, D width, d codebook width.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import nn

from .aggregator import Aggregator
from .config import TasteConfig
from .data import Batch, FeatureStore
from .quantizer import ResidualVQ
from .unit_decoder import IGNORE, UnitDecoder, UnitPrediction

PROSODY = ("duration", "pitch", "loudness", "pause")  # columns of `Batch.prosody`
# their mean and standard deviation over words; they only scale a loss
PROSODY_MEAN, PROSODY_STD = (-1.3, 0.0, 0.0, -2.8), (0.6, 0.15, 0.8, 0.5)
PROSODY_WEIGHT = 1.0
STATE_DROPOUT = 0.15  # share of the encoder states' numbers that the aggregator misses in training

Sums = dict[str, tuple[torch.Tensor, int]]  # name -> (sum, number of positions)


class Objective(nn.Module):
    """What a training stage learns. Beside the members below every objective has

    lengths     cost of every utterance of a store, for batches of equal cost
    load        the fields of a batch that this stage reads
    loss        one scalar and numbers to log
    evaluate    sums over positions on held-out speech, per condition
    exports     file name -> module, what the stage is for
    """

    parts = ("model",)  # names of the optimisers that take turns on every batch; a GAN has two

    def module(self, part: str) -> nn.Module:
        """What the optimiser of a part moves."""
        return self

    def prepare(self, batches: Iterable) -> None:
        """Once, before the first step."""

    def finish(self, batches: Iterable) -> None:
        """Once, after the last step."""


def unit_scores(prediction: UnitPrediction) -> Sums:
    """Teacher-forced cross-entropy in nats, top-1 and top-5 accuracy over labelled positions, the end included.

    With a pointer also the cross-entropy of its steps.
    """
    keep = prediction.labels != IGNORE
    logits, labels = prediction.logits.detach()[keep].float(), prediction.labels[keep]
    best = logits.topk(5, dim=-1).indices == labels[:, None]  # (n, 5)
    n = len(labels)
    sums = {
        "cross_entropy": (nn.functional.cross_entropy(logits, labels, reduction="sum"), n),
        "top1": (best[:, 0].sum(), n),
        "top5": (best.sum(), n),
    }
    if prediction.step_labels is not None:
        keep = prediction.step_labels != IGNORE
        steps, labels = prediction.step_logits.detach()[keep].float(), prediction.step_labels[keep]
        sums["step_cross_entropy"] = (nn.functional.cross_entropy(steps, labels, reduction="sum"), len(labels))
    return sums


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


def predict_units(decoder: UnitDecoder, batch: Batch, taste: torch.Tensor | None) -> UnitPrediction:
    """Teacher-forced units of a batch; taste: word vectors of its tokens (B, N, D), None = text alone."""
    return decoder(
        batch.token_ids,
        batch.token_lengths,
        batch.units,
        batch.unit_lengths,
        batch.speaker_embedding,
        taste,
        text_only=taste is None,
        pointer=batch.pointer,
    )


class TokenizerObjective(Objective):
    """Speech units from text and, from the second stage on, TASTE embeddings: cross-entropy + commitment loss."""

    def __init__(
        self, config: TasteConfig, audio: bool, quantize: bool, values: str | None = None, units_from: int = 0
    ):
        """audio: use the aggregator. quantize: with the RVQ. values: encoder layer for V, default the preset's tap.

        units_from: step of the first unit loss; until then the aggregator learns the prosody of words alone, in cheaper
        steps.
        """
        super().__init__()
        self.audio, self.quantize, self.units_from = audio, quantize, units_from
        self.values = values or f"hidden_{config.encoder.shallow_layer}"
        self.unit_decoder = UnitDecoder(config.unit_decoder)
        # A random audio branch is noise to a decoder that already reads text: it learns to silence the branch, and a
        # silent branch hears no gradient. From zero it can only grow where it helps.
        # dev: audio-from-zero
        nn.init.zeros_(self.unit_decoder.audio_token_encoder_affine_layer.weight)
        nn.init.zeros_(self.unit_decoder.audio_token_encoder_affine_layer.bias)
        if audio:
            self.aggregator = Aggregator(config.aggregator)
            # Everything else is Whisper's own: it need not be shipped, and keys and self-attention know the text.
            # dev: frozen-decoder
            for name, parameter in self.aggregator.named_parameters():
                parameter.requires_grad_("encoder_attn." in name and ".k_proj." not in name or "layer_norm" in name)
            # What all word vectors share is far larger than what tells them apart. The layer norm at the entry of the
            # audio branch divides by the former, and the words would be lost in the noise of dropout. So word vectors
            # are centred and scaled: over the batch, or with fixed numbers once there is a quantizer. `exports` folds
            # the numbers into the aggregator's last layer norm.
            # dev: centred-vectors
            self.register_buffer("centre", torch.zeros(config.rvq.d_model))
            self.register_buffer("spread", torch.ones(config.rvq.d_model))
            self.prosody = nn.Linear(config.rvq.d_model, len(PROSODY))
        else:
            for name, parameter in self.unit_decoder.named_parameters():
                parameter.requires_grad_(not name.startswith(("audio_", "fusion")))
        if quantize:
            self.quantizer = ResidualVQ(config.rvq)

    def lengths(self, store: FeatureStore) -> list[int]:
        positions = "n_sounds" if self.unit_decoder.config.pronounced else "n_tokens"
        return [3 + row[positions] + row["n_units"] for row in store.rows]

    def load(self, store: FeatureStore, indices: Sequence[int], generator: torch.Generator) -> Batch:
        return store.text_and_units(indices, self.values if self.audio else None)

    def word_vectors(self, batch: Batch) -> torch.Tensor:
        """The aggregator's output, centred and scaled, one vector per token, 0 for padding: (B, N, D)."""
        pooled, mask = self.pooled(batch), self.token_mask(batch)
        rows = pooled[mask].float()  # (n, D)
        if self.quantize:
            rows = (rows - self.centre) / self.spread
        else:
            rows = (rows - rows.mean(dim=0)) / rows.std(dim=0, correction=0).clamp(min=1e-5)
        return torch.zeros_like(pooled, dtype=rows.dtype).masked_scatter(mask[..., None], rows)

    def pooled(self, batch: Batch) -> torch.Tensor:
        """The aggregator's output as it is: (B, N, D)."""
        # Word vectors fit an hour of speech by heart long before the unit decoder has learnt to read them.
        # dev: state-dropout
        last, values = (nn.functional.dropout(x, STATE_DROPOUT, self.training) for x in (batch.last, batch.values))
        return self.aggregator(
            batch.token_ids,
            batch.word_ids,
            batch.token_lengths,
            last,
            values,
            key_lengths=batch.frame_lengths,
        ).pooled

    def token_mask(self, batch: Batch) -> torch.Tensor:
        positions = torch.arange(batch.token_ids.shape[1], device=batch.token_ids.device)
        return positions < batch.token_lengths[:, None]  # (B, N)

    def predict(self, batch: Batch, taste: torch.Tensor | None) -> UnitPrediction:
        return predict_units(self.unit_decoder, batch, taste)

    def loss(self, batch: Batch, part: str, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        taste, extra, penalty = None, {}, 0.0
        if self.audio:
            taste = self.word_vectors(batch)
        if self.quantize:
            result = self.quantizer(taste, self.token_mask(batch))
            taste, penalty = result.quantized, result.commitment_loss
            extra = {"commitment": result.commitment_loss.detach(), "perplexity": result.perplexity[0]}
        if self.audio:
            error, known = self.prosody_error(batch, taste)
            prosody = (error.sum(dim=0) / known.sum(dim=0).clamp(min=1)).mean()
            penalty, extra = penalty + PROSODY_WEIGHT * prosody, extra | {"prosody": prosody.detach()}
        if step < self.units_from:
            return penalty, extra
        prediction = self.predict(batch, taste)
        return prediction.loss + penalty, {k: total / n for k, (total, n) in unit_scores(prediction).items()} | extra

    def prosody_error(self, batch: Batch, taste: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared error of reading PROSODY off the word vectors, and where it is known: (B N, 4) each.

        The unit loss alone would also teach them, in far more steps than we can afford.
        """
        # dev: prosody-loss
        mean, std = batch.prosody.new_tensor(PROSODY_MEAN), batch.prosody.new_tensor(PROSODY_STD)
        target = ((batch.prosody - mean) / std).flatten(0, 1)  # (B N, 4)
        known = ~target.isnan()
        guess = self.prosody(taste).flatten(0, 1).float()
        return torch.where(known, guess - target.nan_to_num(), 0.0).square(), known

    def evaluate(self, batch: Batch, generator: torch.Generator) -> Sums:
        """With audio also the control "shuffled": every token gets the TASTE vector of another one in the batch."""
        taste = None
        if self.audio:
            taste, mask = self.word_vectors(batch), self.token_mask(batch)
        if self.quantize:
            taste = self.quantizer(taste, mask).quantized
        prediction = self.predict(batch, taste)
        sums = unit_scores(prediction)
        if len(batch.token_ids) > 1:  # the control that tells whether the text is read at all
            other = self.predict(self.with_other_text(batch), taste)
            sums["other_text_cross_entropy"] = unit_scores(other)["cross_entropy"]
        if self.audio:
            error, known = self.prosody_error(batch, taste)
            for i, name in enumerate(PROSODY):
                sums[f"{name}_error"] = (error[:, i].sum(), int(known[:, i].sum()))
            order = torch.randperm(int(mask.sum()), generator=generator).to(mask.device)
            shuffled = torch.zeros_like(taste).masked_scatter(mask[..., None], taste[mask][order])
            control = self.predict(batch, shuffled)
            sums |= {f"shuffled_{k}": v for k, v in unit_scores(control).items()}
        return sums

    def with_other_text(self, batch: Batch) -> Batch:
        """Every row with the text of the one before; the pointer stays inside the shorter of the two."""
        ids, lengths, pointer = batch.token_ids.roll(1, 0), batch.token_lengths.roll(1, 0), batch.pointer
        if self.unit_decoder.config.pronounced:
            last = self.unit_decoder.reader.sounds(ids, lengths).lengths[:, None] - 1
            pointer = torch.minimum(pointer, last)
        return replace(batch, token_ids=ids, token_lengths=lengths, pointer=pointer)

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Before the first step with the quantizer: fix the centring, start its layers from real word vectors."""
        if self.quantize:
            rows = self.rows(batches)
            start_quantizer(self.quantizer, self.centre_on(torch.cat(rows)), len(rows))

    @torch.no_grad()
    def finish(self, batches: Iterable[Batch]) -> None:
        """After the last step without the quantizer: fix the centring for export."""
        if self.audio and not self.quantize:
            self.centre_on(torch.cat(self.rows(batches)))

    def rows(self, batches: Iterable[Batch]) -> list[torch.Tensor]:
        """The vectors of all tokens of each batch (n, D), without dropout."""
        self.eval()
        rows = [self.pooled(batch)[self.token_mask(batch)].float() for batch in batches]
        self.train()
        return rows

    def centre_on(self, rows: torch.Tensor) -> torch.Tensor:
        """Take mean and standard deviation of word vectors (n, D) as the fixed ones; returns the rows centred."""
        self.centre.copy_(rows.mean(dim=0))
        self.spread.copy_(rows.std(dim=0, correction=0).clamp(min=1e-5))
        return (rows - self.centre) / self.spread

    def exports(self) -> dict[str, nn.Module]:
        parts = {"unit_decoder": self.unit_decoder}
        if self.audio:
            parts["aggregator"] = self.centred_aggregator()
        if self.quantize:
            parts["quantizer"] = self.quantizer
        return parts if self.audio else {"text_only": self.unit_decoder}

    def centred_aggregator(self) -> Aggregator:
        """A copy of the aggregator whose last layer norm also centres and scales. Pooling is linear."""
        aggregator = copy.deepcopy(self.aggregator)
        norm = aggregator.layer_norm
        norm.weight.data = norm.weight.data / self.spread
        norm.bias.data = (norm.bias.data - self.centre) / self.spread
        return aggregator
