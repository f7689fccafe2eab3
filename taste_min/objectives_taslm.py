"""What the language-model stages learn (paper section 3.2): text and codes together, or one without the other.

Only what is trained is kept in checkpoints and exports: LoRA, fusion, head and padding embeddings. The text model comes
from its own file again.

Axes: B batch, N positions, W words, R quantiser layer, K codebook size.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from .data import BatchOrder, FeatureStore
from .errors import TasteError
from .objectives import Objective, Sums
from .taslm import EmbeddingHead, Taslm
from .taslm_files import adapter, build_taslm, build_unit_lm
from .taslm_layout import IGNORE, Batch, collate
from .taslm_speech import position_losses
from .unit_lm import UnitBatch, UnitLm, collate_units

SPEECH_START = 1.2  # root mean square of speech per that of text where they are added


class LanguageObjective(Objective):
    """What both kinds of language model share. name: of the stage and its exported file."""

    def __init__(self, name: str, model: nn.Module, kl: bool):
        super().__init__()
        self.name, self.model, self.kl = name, model, kl
        trained = {key for key, parameter in self.named_parameters() if parameter.requires_grad}

        def keep_trained(module, state, prefix, meta):
            for key in [key for key in state if key not in trained]:
                del state[key]

        def forgive_frozen(module, keys):
            keys.missing_keys[:] = [key for key in keys.missing_keys if key in trained]

        self.register_state_dict_post_hook(keep_trained)
        self.register_load_state_dict_post_hook(forgive_frozen)

    def prepare(self, batches: Iterable) -> None:
        """Start the head from how often each code comes, so that all it learns is what the context says."""
        # dev: head-from-unigrams
        labels = torch.cat([self.labels(batch) for batch in batches])  # (n, R)
        if len(labels):
            start_head(self.model, labels)

    def exports(self) -> dict[str, nn.Module]:
        return {self.name: adapter(self.model)}

    def facts(self, order: BatchOrder, n_batches: int, seconds: float) -> dict:
        """For the manifest: positions seen, how fast, and floating-point operations.

        Two per weight and position forwards, two backwards through frozen weights, two of the frozen model for the
        divergence. Attention adds little at the length of a sentence.
        """
        positions = sum(len(rows) * int(order.lengths[rows].max()) for rows in map(order.__getitem__, range(n_batches)))
        weights = sum(p.numel() for p in self.model.llm.parameters())
        facts = {"positions": positions, "positions_per_second": round(positions / max(seconds, 1e-9), 2)}
        return facts | {"flops": weights * positions * (6 if self.kl else 4)}


class TaslmObjective(LanguageObjective):
    """Text and codes. Without `speech` no code is heard or predicted, without `text` no word is.

    loudness: of speech beside text before the first step, see `start_fusion`.
    """

    def __init__(
        self,
        name: str,
        model: Taslm,
        text: bool = True,
        speech: bool = True,
        kl: bool = True,
        loudness: float = SPEECH_START,
    ):
        super().__init__(name, model, kl and text)
        self.text, self.speech, self.loudness = text, speech, loudness

    def lengths(self, store: FeatureStore) -> list[int]:
        if store.fingerprint != self.model.quantizer.fingerprint:
            raise TasteError("these codes were made by another quantizer; run `taste-min extract` again.")
        return [1 + row["n_tokens"] + self.model.config.delay for row in store.rows]

    def load(self, store: FeatureStore, indices: Sequence[int], generator: torch.Generator | None = None) -> Batch:
        layouts = [
            self.model.layout(*(store.tensor(i, name).long() for name in ("token_ids", "word_ids", "codes")))
            for i in indices
        ]
        return self.hide(collate(layouts))

    def hide(self, batch: Batch) -> Batch:
        """Without what this variant may not see: padding embeddings in its place, and no labels."""
        if not self.speech:
            batch = batch._replace(codes=batch.codes * 0 + IGNORE, taste_labels=batch.taste_labels * 0 + IGNORE)
        if not self.text:
            token_ids = batch.token_ids.clone()
            token_ids[:, 1:] = IGNORE
            batch = batch._replace(token_ids=token_ids, text_labels=batch.text_labels * 0 + IGNORE)
        return batch

    def prepare(self, batches: Iterable) -> None:
        """As for every language model; and speech is made loud enough to be heard."""
        batches = list(batches)
        super().prepare(batches)
        heard = torch.cat([batch.codes[batch.codes[..., 0] >= 0] for batch in batches])  # (n, R)
        if len(heard):
            start_fusion(self.model, heard, self.loudness)

    def labels(self, batch: Batch) -> torch.Tensor:
        return batch.taste_labels[batch.taste_labels[..., 0] >= 0]

    def loss(self, batch: Batch, part: str, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        output = self.model(batch, self.model.reference_logits(batch) if self.kl else None)
        extra = {"text_nll": output.text_ce.detach(), "taste_loss": output.taste_loss.detach()}
        return output.loss, extra | ({"text_kl": output.text_kl.detach()} if self.kl else {})

    def evaluate(self, batch: Batch, generator: torch.Generator) -> Sums:
        """text_nll per token; code_nll per code, or vector_error per number of the codebook vector."""
        losses = position_losses(self.model, batch)
        sums = {"text_nll": (losses.text.sum(), int((batch.text_labels >= 0).sum()))}
        name = "vector_error" if isinstance(self.model.head, EmbeddingHead) else "code_nll"
        sums[name] = (losses.codes.sum(), int((batch.taste_labels[..., 0] >= 0).sum()))
        return {key: (total, n) for key, (total, n) in sums.items() if n}

    def facts(self, order: BatchOrder, n_batches: int, seconds: float) -> dict:
        return super().facts(order, n_batches, seconds) | {"codebooks": self.model.quantizer.fingerprint}


class UnitLmObjective(LanguageObjective):
    """The baseline on interleaved units."""

    def __init__(self, name: str, model: UnitLm, kl: bool = True):
        super().__init__(name, model, kl)

    def lengths(self, store: FeatureStore) -> list[int]:
        return [1 + row["n_tokens"] + row["n_runs"] for row in store.rows]

    def load(self, store: FeatureStore, indices: Sequence[int], generator: torch.Generator | None = None) -> UnitBatch:
        pairs = [(store.tensor(i, "token_ids").long(), store.tensor(i, "units").long()) for i in indices]
        return collate_units(pairs, self.model.config.sos_id)

    def labels(self, batch: UnitBatch) -> torch.Tensor:
        return batch.units[batch.units >= 0][:, None]

    def loss(self, batch: UnitBatch, part: str, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        output = self.model(batch, self.kl)
        extra = {"text_nll": output.text_ce.detach(), "unit_nll": output.unit_ce.detach()}
        return output.loss, extra | ({"text_kl": output.text_kl.detach()} if self.kl else {})

    def evaluate(self, batch: UnitBatch, generator: torch.Generator) -> Sums:
        output = self.model(batch, kl=False)
        counts = int((batch.token_ids[:, 1:] >= 0).sum()), int((batch.units >= 0).sum())
        return {"text_nll": (output.text_nll.sum(), counts[0]), "unit_nll": (output.unit_nll.sum(), counts[1])}


@torch.no_grad()
def start_head(model: Taslm | UnitLm, labels: torch.Tensor) -> None:
    """Set a head to what is best without context: code frequencies, or the spread of the vectors. labels: (n, R)."""
    head = model.head
    if isinstance(head, EmbeddingHead):
        vectors = model.quantizer.embed_codes(labels)
        head.mean.weight.zero_()
        head.mean.bias.copy_(vectors.mean(0))
        head.log_variance.copy_(vectors.var(0).clamp(min=1e-4).log())
        return
    linear = head if isinstance(head, nn.Linear) else head.linear
    n_codes = linear.out_features // labels.shape[1]
    counts = torch.stack([torch.bincount(column, minlength=n_codes) for column in labels.T]) + 1.0  # (R, K)
    linear.weight.zero_()
    linear.bias.copy_((counts / counts.sum(1, keepdim=True)).log().flatten())


@torch.no_grad()
def start_fusion(model: Taslm, codes: torch.Tensor, loudness: float = SPEECH_START) -> None:
    """Scale the fusion's linear layer until speech is `loudness` times as strong as text. codes: (n, R)."""
    # dev: loud-start
    model.fuse.linear.bias.zero_()
    model.fuse.linear.weight.mul_(loudness / loudness_of(model, codes))


@torch.no_grad()
def loudness_of(model: Taslm, codes: torch.Tensor) -> float:
    """Root mean square of speech per that of text where the two are added. codes: (n, R)."""
    shares, text = model.fuse.weights.softmax(0), model.llm.get_input_embeddings().weight
    speech = shares[0] * model.fuse.linear(model.quantizer.decode(codes))
    return float(speech.square().mean().sqrt() / (shares[1] * text.float().square().mean().sqrt()))


def taslm_objective(name: str, head: str, preset: str, **what: bool) -> TaslmObjective:
    """An objective on the language model of a preset."""
    return TaslmObjective(name, build_taslm(preset, head), **what)


def unit_lm_objective(name: str, preset: str) -> UnitLmObjective:
    return UnitLmObjective(name, build_unit_lm(preset))
