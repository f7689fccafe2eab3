"""The joint spoken language model: a text model that also reads and writes TASTE (paper section 3.2).

Every position carries a text token and, one word behind it, a TASTE embedding; their weighted sum enters a Llama with
LoRA. The output of a position predicts the next text token and, where a word is complete, the codes of that word.

Axes: B batch, T text tokens, W words, N positions = 1 + T + delay, D width of the language model, V its vocabulary,
R quantiser layer, K codebook size, d codebook width.
"""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn
from transformers import LlamaForCausalLM

from .config import TaslmConfig
from .errors import TasteError
from .llama import build_llm, text_logits
from .lora import with_lora
from .quantizer import ResidualVQ
from .taslm_layout import IGNORE, Batch, Layout, layout
from .tokens import TasteTokens


class HeadOutput(NamedTuple):
    """codes: (..., R). logits: (..., R, K), token heads only. latent: (..., d), expected or sampled codebook vector of
    the soft and embedding heads. mean: (..., d), embedding head only."""

    codes: torch.Tensor
    logits: torch.Tensor | None = None
    latent: torch.Tensor | None = None
    mean: torch.Tensor | None = None


class TaslmOutput(NamedTuple):
    """loss: scalar = text_weight * text_loss + taste_weight * taste_loss.

    text_ce: cross-entropy in nats per token. text_kl: KL to the frozen text model, None without its logits; then
    text_loss is text_ce. text_logits: (B, N, V). taste: predictions at all positions, codes (B, N, R).
    """

    loss: torch.Tensor
    text_loss: torch.Tensor
    taste_loss: torch.Tensor
    text_ce: torch.Tensor
    text_kl: torch.Tensor | None
    text_logits: torch.Tensor
    taste: HeadOutput


class WeightedSum(nn.Module):
    """softmax(w) . (linear(speech), text); starts almost as text alone, w = (-2, 2)."""

    def __init__(self, d_taste: int, d_model: int):
        super().__init__()
        self.linear = nn.Linear(d_taste, d_model)
        self.weights = nn.Parameter(torch.tensor([-2.0, 2.0]))

    def forward(self, text: torch.Tensor, speech: torch.Tensor) -> torch.Tensor:
        share = self.weights.softmax(0)
        return share[0] * self.linear(speech) + share[1] * text


class TokenHead(nn.Module):
    """One classifier per codebook; with `soft` it also regresses the expected codebook vector."""

    def __init__(self, config: TaslmConfig):
        super().__init__()
        self.rvq, self.decay, self.soft = config.rvq, config.codebook_decay, config.head == "token_soft"
        self.linear = nn.Linear(config.llm.d_model, self.rvq.n_quantizers * self.rvq.codebook_size)

    def forward(self, hidden: torch.Tensor, quantizer: ResidualVQ) -> HeadOutput:
        logits = self.linear(hidden).unflatten(-1, (self.rvq.n_quantizers, self.rvq.codebook_size))  # (..., R, K)
        latent = None
        if self.soft:
            latent = sum(logits[..., r, :].softmax(-1) @ layer.embed for r, layer in enumerate(quantizer.layers))
        return HeadOutput(logits.argmax(-1), logits, latent)

    def loss(self, output: HeadOutput, labels: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """output at n labelled positions; labels: (n, R); target: (n, d), their summed codebook vectors."""
        entropies = F.cross_entropy(output.logits.transpose(1, 2), labels, reduction="none").mean(0)  # (R,)
        weights = self.decay ** torch.arange(len(entropies), device=labels.device)
        loss = (weights * entropies).sum() / weights.sum()
        return (F.mse_loss(output.latent, target) + loss) / 2 if self.soft else loss


class EmbeddingHead(nn.Module):
    """A Gaussian over the summed codebook vector: a mean per position, one log-variance vector for all of them."""

    def __init__(self, config: TaslmConfig):
        super().__init__()
        self.kl_share, self.adds_std = config.latent_kl_share, config.latent_adds_std
        self.mean = nn.Linear(config.llm.d_model, config.rvq.codebook_dim)
        self.log_variance = nn.Parameter(torch.zeros(config.rvq.codebook_dim))

    def forward(self, hidden: torch.Tensor, quantizer: ResidualVQ) -> HeadOutput:
        mean, std = self.mean(hidden), (0.5 * self.log_variance).exp()
        if self.training:  # value of mean + std * noise, gradient of mean + std
            latent = mean + std + (std * (torch.randn_like(mean) - 1)).detach()
        else:
            latent = mean + std if self.adds_std else mean  # dev: latent-mean
        return HeadOutput(quantizer.encode_embedding(latent.detach()), None, latent, mean)

    def loss(self, output: HeadOutput, labels: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Regression of the sample, and KL between N(mean, variance) and N(target, 1)."""
        regression = F.mse_loss(output.latent, target)
        kl = 0.5 * (self.log_variance.exp() + (output.mean - target).square() - 1 - self.log_variance).mean()
        return (1 - self.kl_share) * regression + self.kl_share * kl


class Taslm(nn.Module):
    """Text language model + LoRA, the fusion at its input and the TASTE head at its output.

    The base weights and the quantizer stay frozen; LoRA, fusion, head and the two padding embeddings are trained.
    """

    tokenizer: Tokenizer | None = None  # of the text model, where the checkpoint brought one

    def __init__(self, config: TaslmConfig, quantizer: ResidualVQ, llm: LlamaForCausalLM | None = None):
        """llm: pretrained weights of the sizes in config.llm; they are adapted in place. None: random weights."""
        super().__init__()
        llm = build_llm(config.llm) if llm is None else llm
        if (llm.config.hidden_size, llm.config.vocab_size) != (config.llm.d_model, config.llm.vocab_size):
            raise TasteError(
                f"the language model has width {llm.config.hidden_size} and {llm.config.vocab_size} tokens, the "
                f"configuration {config.llm.d_model} and {config.llm.vocab_size}; use the preset made for this model."
            )
        theirs, ours = quantizer.config, config.rvq
        if any(
            getattr(theirs, size) != getattr(ours, size)
            for size in ("d_model", "codebook_dim", "n_quantizers", "codebook_size")
        ):
            raise TasteError("the quantizer's sizes differ from the configuration; use the preset made for it.")
        rope = llm.model.rotary_emb.inv_freq.float()  # kept aside: .to(bfloat16) would round it
        llm.to(torch.bfloat16 if config.bfloat16 else torch.float32)
        llm.model.rotary_emb.inv_freq = rope.bfloat16().float() if config.round_rope else rope  # dev: exact-rope
        self.config = config
        self.quantizer = quantizer.requires_grad_(False)
        self.language_model = with_lora(llm, config)
        self.pad_text = nn.Parameter(torch.zeros(config.llm.d_model))
        self.pad_audio = nn.Parameter(torch.zeros(config.rvq.d_model))
        self.fuse = WeightedSum(config.rvq.d_model, config.llm.d_model)
        self.head = EmbeddingHead(config) if config.head == "embedding" else TokenHead(config)

    @classmethod
    def from_pretrained(cls, name: str | Path = "mini-token") -> "Taslm":
        """Load "mini-token" or "mini-embedding", a file that `taste-min train taslm_*` exported, or an original
        checkpoint (a folder or a hub id), in eval mode on the CPU.

        "MediaTek-Research/Llama-1B-TASTE-V0" is the released one. Its config.json decides the head and the delay;
        `tokenizer` is the text model's. Raises TasteError for unknown names and for files that do not fit.
        """
        from .released import load_taslm
        from .taslm_files import is_adapter, load_mini

        return load_mini(name) if is_adapter(name) else load_taslm(name)

    def continue_speech(self, tokens: TasteTokens, sampling=None, seed: int = 0, with_prompt: bool = False):
        """What the model would say after `tokens`, see `taslm_speech.continue_speech`."""
        from .taslm_speech import continue_speech

        return continue_speech(self, tokens, sampling, seed, with_prompt)

    def score(self, tokens: TasteTokens):
        """How well the model expects `tokens`, see `taslm_speech.score`."""
        from .taslm_speech import score

        return score(self, tokens)

    @property
    def llm(self) -> LlamaForCausalLM:
        """The Llama inside the LoRA wrapper; calling it applies LoRA too."""
        return self.language_model.get_base_model()

    @property
    def device(self) -> torch.device:
        return self.pad_text.device

    def layout(self, token_ids: torch.Tensor, word_ids: torch.Tensor, codes: torch.Tensor) -> Layout:
        """`layout` with this model's start token and delay."""
        return layout(token_ids, word_ids, codes, self.config.sos_id, self.config.delay, self.config.delay_level)

    def embed_text(self, token_ids: torch.Tensor) -> torch.Tensor:
        """token_ids: (..., N), -1 = pad_text -> (..., N, D) float32."""
        text = self.llm.get_input_embeddings()(token_ids.clamp(min=0)).float()
        return torch.where(token_ids[..., None] >= 0, text, self.pad_text)

    def embed(self, token_ids: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Fused inputs of the language model. token_ids: (..., N), codes: (..., N, R) -> (..., N, D) float32."""
        with torch.autocast(self.device.type, enabled=False):
            available = codes[..., :1] >= 0
            speech = torch.where(available, self.quantizer.decode(codes), self.pad_audio)  # (..., N, d_taste)
            return self.fuse(self.embed_text(token_ids), speech)

    def embed_sequence(self, token_ids: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """As `embed`, for a sequence from its beginning: position 0, the start token, is not fused."""
        sos = self.embed_text(token_ids[..., :1])
        return torch.cat([sos, self.embed(token_ids[..., 1:], codes[..., 1:, :])], dim=-2)

    def predict_taste(self, hidden: torch.Tensor) -> HeadOutput:
        """hidden: (..., D) of the last layer -> TASTE predictions, in float32."""
        with torch.autocast(self.device.type, enabled=False):
            return self.head(hidden.float(), self.quantizer)

    def forward(self, batch: Batch, reference_logits: torch.Tensor | None = None) -> TaslmOutput:
        """Teacher forcing. reference_logits: (B, 1 + T, V) of the frozen text model adds the KL term to text_loss."""
        inputs = self.embed_sequence(batch.token_ids, batch.codes) * batch.mask[..., None]  # (B, N, D)
        hidden = self.llm.model(inputs_embeds=inputs.to(self.llm.dtype), attention_mask=batch.mask).last_hidden_state
        text_logits, taste = self.llm.lm_head(hidden), self.predict_taste(hidden)

        text_labels = batch.text_labels.flatten()
        text_ce = F.cross_entropy(text_logits.flatten(0, 1).float(), text_labels, ignore_index=IGNORE, reduction="sum")
        text_ce = text_ce / (text_labels >= 0).sum().clamp(min=1)
        text_loss, text_kl = text_ce, None
        if reference_logits is not None:
            n = reference_logits.shape[1]
            known = batch.text_labels[:, :n] >= 0
            ours, theirs = text_logits[:, :n][known].float(), reference_logits[known].float()
            text_kl = F.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), log_target=True, reduction="batchmean")
            text_loss = self.config.text_kl_share * text_kl + (1 - self.config.text_kl_share) * text_ce

        labelled = batch.taste_labels[..., 0] >= 0
        labels = batch.taste_labels[labelled]  # (n, R)
        chosen = HeadOutput(*(None if field is None else field[labelled] for field in taste))
        taste_loss = hidden.new_zeros(())
        if len(labels):
            taste_loss = self.head.loss(chosen, labels, self.quantizer.embed_codes(labels))
        loss = self.config.text_weight * text_loss + self.config.taste_weight * taste_loss
        return TaslmOutput(loss, text_loss, taste_loss, text_ce, text_kl, text_logits, taste)

    @torch.no_grad()
    def reference_logits(self, batch: Batch) -> torch.Tensor:
        """(B, 1 + T, V) of the text model as it was before training: the same weights with LoRA switched off."""
        with self.language_model.disable_adapter():
            return text_logits(self.llm, batch.token_ids[:, : batch.token_ids.shape[1] - self.config.delay])


ORIGINAL_NAMES = {  # parts of the original names -> ours; everything else is called the same
    "pad_text_unit_embed": "pad_text",
    "pad_audio_unit_embed": "pad_audio",
    "fuse_for_bridge_in_llm.": "fuse.",
    "extract_for_bridge_out_llm.fc_mu.": "head.mean.",
    "extract_for_bridge_out_llm.b_logvar": "head.log_variance",
    "extract_for_bridge_out_llm.linear.": "head.linear.",
}


def rename_original(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Original `spoken_lm.` names (prefix removed) -> ours. The output embedding defaults to the input embedding."""
    ours = {}
    for key, value in weights.items():
        for theirs, name in ORIGINAL_NAMES.items():
            key = key.replace(theirs, name)
        ours[key] = value
    prefix = "language_model.base_model.model."
    ours.setdefault(f"{prefix}lm_head.weight", ours[f"{prefix}model.embed_tokens.weight"])
    if "head.linear.weight" in ours:
        ours.pop("head.log_variance", None)  # the soft token head owned one and never used it
    return ours
