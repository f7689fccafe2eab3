"""What the tokenizer stages learn (paper section 3.1): text only, then without quantizer, then with it.

Every objective is a module with the same members; the flow and the vocoder are in objectives_wave.py.

    parts, module     names of the optimisers that take turns on every batch ("model"; a GAN has two), what they move
    lengths           cost of every utterance, for batches of equal cost
    load              the fields of a batch that this stage reads
    prepare, finish   once, before the first step and after the last
    loss              one scalar and numbers to log
    evaluate          sums over positions on held-out speech, per condition
    exports           file name -> module, what the stage is for

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
from .transformer import RelativeAttention
from .unit_decoder import IGNORE, UnitDecoder

# Mean and standard deviation of `Batch.prosody` over words: log seconds, log F0, loudness. Only scale a loss.
PROSODY_MEAN, PROSODY_STD = (-1.3, 0.0, 0.0), (0.6, 0.15, 0.8)
PROSODY_WEIGHT = 0.5
GUIDED_LAYERS, GUIDED_HEAD, GUIDED_WEIGHT = (1, 2), 0, 1.0  # attention maps of the unit decoder that learn to align
GUIDED_REACH = 1.5  # standard deviation, in letters, of what counts as looking at the spoken one

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
        # A random audio branch is noise to a decoder that already reads text: it learns to silence the branch, and a
        # silent branch hears no gradient. From zero it can only grow where it helps.
        # dev: audio-from-zero
        nn.init.zeros_(self.unit_decoder.audio_token_encoder_affine_layer.weight)
        nn.init.zeros_(self.unit_decoder.audio_token_encoder_affine_layer.bias)
        for layer in self.guided_layers():
            layer.keep_map = True
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
            self.prosody = nn.Linear(config.rvq.d_model, 3)
        else:
            for name, parameter in self.unit_decoder.named_parameters():
                parameter.requires_grad_(not name.startswith(("audio_", "fusion")))
        if quantize:
            self.quantizer = ResidualVQ(config.rvq)

    def guided_layers(self) -> list[RelativeAttention]:
        blocks = self.unit_decoder.llm.encoders
        return [blocks[i].self_attn for i in GUIDED_LAYERS if i < len(blocks)]

    def alignment_loss(self, batch: Batch) -> torch.Tensor:
        """How little the guided heads look at what is being spoken: mean of -log(share of attention).

        A decoder without cross-attention has to find out what comes next from the units so far. It learns that from
        the unit loss too, but slowly, and until then it reads neither text nor codes. Within a word, the letters are
        taken to be spoken one after the other at equal speed; neighbours count too, the less the further they are.
        """
        # dev: guided-attention
        words, place, count, lengths = self.text_places(batch)  # (B, L) each, (B,)
        known = batch.unit_words >= 0  # (B, U)
        spoken = batch.unit_words[..., None]  # (B, U, 1)
        distance = place[:, None] + 0.5 - batch.unit_progress[..., None] * count[:, None]  # (B, U, L)
        close = torch.exp(-0.5 * (distance / GUIDED_REACH).square()) * (words[:, None] == spoken)
        # position of the query that predicts unit u: the prompt has L + 3 positions, the last one predicts unit 0
        query = lengths[:, None] + 2 + torch.arange(known.shape[1], device=known.device)  # (B, U)
        losses = []
        for layer in self.guided_layers():
            attention = layer.attention_map[:, GUIDED_HEAD].float()  # (B, T, T)
            rows = attention.gather(
                1, query.clamp(max=attention.shape[1] - 1)[..., None].expand(-1, -1, close.shape[2] + 2)
            )
            share = (rows[..., 2:] * close).sum(dim=-1)  # (B, U); two positions stand before the text
            losses.append(-(share + 1e-4).log()[known].mean())
        return torch.stack(losses).mean()

    def text_places(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Where every letter (without spelling: every token, L = N) stands: four tensors, the first three (B, L).

        Number of its word, -1 = padding; its place in the word from 0; letters of the word; letters of each text (B,).
        Place and size mean nothing for padding.
        """
        words, lengths = batch.word_ids, batch.token_lengths
        if self.unit_decoder.config.max_letters:
            letters = self.unit_decoder.spelling.letters(batch.token_ids, lengths)
            words, lengths = words.gather(1, letters.tokens.clamp(min=0)), letters.lengths
        position = torch.arange(words.shape[1], device=words.device)
        words = torch.where(position < lengths[:, None], words, -1)  # (B, L)
        same = words[:, :, None] == words[:, None]  # (B, L, L)
        return words, (same & (position < position[:, None])).sum(dim=2), same.sum(dim=2), lengths

    def lengths(self, store: FeatureStore) -> list[int]:
        spelled = self.unit_decoder.config.max_letters > 0
        return [3 + (len(row["text"]) + 1 if spelled else row["n_tokens"]) + row["n_units"] for row in store.rows]

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
        if self.audio:
            error, known = self.prosody_error(batch, taste)
            prosody = (error.sum(dim=0) / known.sum(dim=0).clamp(min=1)).mean()
            penalty, extra = penalty + PROSODY_WEIGHT * prosody, extra | {"prosody": prosody.detach()}
        if (batch.unit_words >= 0).any():
            alignment = self.alignment_loss(batch)
            penalty, extra = penalty + GUIDED_WEIGHT * alignment, extra | {"alignment": alignment.detach()}
        return prediction.loss + penalty, scores | extra

    def prosody_error(self, batch: Batch, taste: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared error of reading duration, pitch and loudness off the word vectors, and where they are known.

        The unit loss alone would also teach them, in far more steps than we can afford.
        """
        # dev: prosody-loss
        mean, std = batch.prosody.new_tensor(PROSODY_MEAN), batch.prosody.new_tensor(PROSODY_STD)
        target = ((batch.prosody - mean) / std).flatten(0, 1)  # (B N, 3)
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
        sums = unit_scores(prediction.logits, prediction.labels)
        if (batch.unit_words >= 0).any():
            n = int((batch.unit_words >= 0).sum())
            sums["alignment"] = (self.alignment_loss(batch) * n, n)
        if len(batch.token_ids) > 1:  # the control that tells whether the text is read at all
            other = self.predict(replace(batch, token_ids=batch.token_ids.roll(1, 0)), taste)
            sums["other_text_cross_entropy"] = unit_scores(other.logits, other.labels)["cross_entropy"]
        if self.audio:
            error, known = self.prosody_error(batch, taste)
            for i, name in enumerate(("duration", "pitch", "loudness")):
                sums[f"{name}_error"] = (error[:, i].sum(), int(known[:, i].sum()))
            order = torch.randperm(int(mask.sum()), generator=generator).to(mask.device)
            shuffled = torch.zeros_like(taste).masked_scatter(mask[..., None], taste[mask][order])
            control = self.predict(batch, shuffled)
            sums |= {f"shuffled_{k}": v for k, v in unit_scores(control.logits, control.labels).items()}
        return sums

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Before the first step with the quantizer: fix the centring, start its layers from real word vectors."""
        if self.quantize:
            rows = [self.pooled(batch)[self.token_mask(batch)].float() for batch in batches]
            start_quantizer(self.quantizer, self.centre_on(torch.cat(rows)), len(rows))

    @torch.no_grad()
    def finish(self, batches: Iterable[Batch]) -> None:
        """After the last step without the quantizer: fix the centring for export."""
        if self.audio and not self.quantize:
            self.centre_on(torch.cat([self.pooled(batch)[self.token_mask(batch)].float() for batch in batches]))

    def centre_on(self, rows: torch.Tensor) -> torch.Tensor:
        """Take mean and standard deviation of word vectors (n, D) as the fixed ones; returns the rows centred."""
        self.centre.copy_(rows.mean(dim=0))
        self.spread.copy_(rows.std(dim=0, correction=0).clamp(min=1e-5))
        return (rows - self.centre) / self.spread

    def module(self, part: str) -> nn.Module:
        return self

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
