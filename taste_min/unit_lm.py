"""The baseline of claim 8: the same language model on text and plain speech units, interleaved without alignment.

Text tokens and units share one sequence in fixed proportion: a few tokens, a few units, again; what is left of either
follows at the end. Nothing says which units belong to which word. Repeated units count once.

Axes: B batch, T text tokens, U units without repeats, N positions = 1 + T + U, D width, V vocabulary.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaForCausalLM

from .config import TaslmConfig
from .llama import text_logits
from .lora import with_lora
from .taslm_layout import IGNORE

TEXT_CHUNK, UNIT_CHUNK = 3, 24  # about the proportion of the corpus, with the text ahead


class UnitBatch(NamedTuple):
    """token_ids, units (B, N): one of them is -1 at every position; the start token is text. text_ids: (B, 1 + T), the
    text alone with its start token, for the frozen model. mask (B, N). Padding is -1 everywhere."""

    token_ids: torch.Tensor
    units: torch.Tensor
    text_ids: torch.Tensor
    mask: torch.Tensor

    def to(self, device: torch.device | str) -> "UnitBatch":
        return UnitBatch(*(tensor.to(device) for tensor in self))


def interleave(token_ids: torch.Tensor, units: torch.Tensor, sos_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """token_ids (T,), units -> the two streams (N,) of `UnitBatch`."""
    units = units.unique_consecutive()
    rounds = max(-(-len(token_ids) // TEXT_CHUNK), -(-len(units) // UNIT_CHUNK))
    texts, sounds = [token_ids.new_tensor([sos_id])], [units.new_tensor([IGNORE])]
    for r in range(rounds):
        text = token_ids[r * TEXT_CHUNK : (r + 1) * TEXT_CHUNK]
        sound = units[r * UNIT_CHUNK : (r + 1) * UNIT_CHUNK]
        texts += [text, torch.full_like(sound, IGNORE)]
        sounds += [torch.full_like(text, IGNORE), sound]
    return torch.cat(texts), torch.cat(sounds)


def collate_units(pairs: list[tuple[torch.Tensor, torch.Tensor]], sos_id: int) -> UnitBatch:
    """pairs of token_ids (T,) and units -> a padded batch."""
    rows = [interleave(ids, units, sos_id) for ids, units in pairs]
    token_ids, units = (pad_sequence(list(x), batch_first=True, padding_value=IGNORE) for x in zip(*rows, strict=True))
    text = [torch.cat([ids.new_tensor([sos_id]), ids]) for ids, _ in pairs]
    text_ids = pad_sequence(text, batch_first=True, padding_value=IGNORE)
    return UnitBatch(token_ids, units, text_ids, (token_ids >= 0) | (units >= 0))


class UnitOutput(NamedTuple):
    """loss as in `taslm.TaslmOutput`. text_nll, unit_nll: (B, N) nats at the positions that predict text or a unit,
    0 elsewhere."""

    loss: torch.Tensor
    text_ce: torch.Tensor
    unit_ce: torch.Tensor
    text_kl: torch.Tensor | None
    text_nll: torch.Tensor
    unit_nll: torch.Tensor


class UnitLm(nn.Module):
    """Text model + LoRA, an embedding table and a classifier for the units; which kind comes next is known."""

    def __init__(self, config: TaslmConfig, n_units: int, llm: LlamaForCausalLM):
        super().__init__()
        self.config = config
        self.language_model = with_lora(llm, config)
        self.unit_embedding = nn.Embedding(n_units, config.llm.d_model)
        with torch.no_grad():  # as large as the embeddings of text
            self.unit_embedding.weight.mul_(llm.get_input_embeddings().weight.std())
        self.head = nn.Linear(config.llm.d_model, n_units)

    @property
    def llm(self) -> LlamaForCausalLM:
        return self.language_model.get_base_model()

    def forward(self, batch: UnitBatch, kl: bool = True) -> UnitOutput:
        """Teacher forcing; kl: with the divergence from the text model without LoRA."""
        is_text = batch.token_ids >= 0
        text = self.llm.get_input_embeddings()(batch.token_ids.clamp(min=0))
        inputs = torch.where(is_text[..., None], text, self.unit_embedding(batch.units.clamp(min=0)))
        hidden = self.llm.model(inputs_embeds=inputs, attention_mask=batch.mask).last_hidden_state[:, :-1]

        text_labels, unit_labels = batch.token_ids[:, 1:], batch.units[:, 1:]  # position p predicts item p + 1
        known, sounds = text_labels >= 0, unit_labels >= 0
        logits, text_kl = self.llm.lm_head(hidden[known]).float(), None
        text_nll = F.cross_entropy(logits, text_labels[known], reduction="none")
        unit_nll = F.cross_entropy(self.head(hidden[sounds]), unit_labels[sounds], reduction="none")
        text_loss = text_nll.mean()
        if kl:
            with torch.no_grad(), self.language_model.disable_adapter():
                reference = text_logits(self.llm, batch.text_ids[:, :-1])[batch.text_ids[:, 1:] >= 0].float()
            text_kl = F.kl_div(
                logits.log_softmax(-1), reference.log_softmax(-1), log_target=True, reduction="batchmean"
            )
            text_loss = self.config.text_kl_share * text_kl + (1 - self.config.text_kl_share) * text_loss
        loss = self.config.text_weight * text_loss + self.config.taste_weight * unit_nll.mean()
        zeros = hidden.new_zeros(known.shape)
        return UnitOutput(
            loss,
            text_nll.mean(),
            unit_nll.mean(),
            text_kl,
            zeros.masked_scatter(known, text_nll),
            zeros.masked_scatter(sounds, unit_nll),
        )
