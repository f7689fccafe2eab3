"""The aggregator: a Whisper decoder that pulls the acoustics of each word together (paper section 3.1.2).

Queries come from the transcript, keys from the last encoder layer (where is this word?), values from a shallow layer
(how does it sound?). With keys and values from the same layer this is exactly Whisper's decoder.

Axes: B batch, N text tokens, P prefix tokens, T encoder frames, D width, H heads, L aggregator layers.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .config import AggregatorConfig
from .errors import TasteError


@dataclass(frozen=True)
class AggregatorOutput:
    """hidden_states: (B, N, D) after the final layer norm, one per text token, before word pooling.

    pooled: (B, N, D) the same, averaged over the tokens of each word (every token of a word holds the mean).
    cross_attention: (B, L, H, N, T) probabilities over encoder frames, or None when not asked for.
    """

    hidden_states: torch.Tensor
    pooled: torch.Tensor
    cross_attention: torch.Tensor | None


def pool_words(hidden_states: torch.Tensor, word_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Replace every token by the mean over its word; positions at or beyond `lengths` are left as they are.

    hidden_states: (B, N, D); word_ids: (B, N), equal for the tokens of one word; lengths: (B,).
    Padding never takes part, also not in one-word utterances of a padded batch.
    """
    # dev: word-pooling  the original lets padding, which has word id 0, into word 0
    real = torch.arange(word_ids.shape[1], device=word_ids.device) < lengths[:, None]  # (B, N)
    same_word = (word_ids[:, :, None] == word_ids[:, None, :]) & real[:, :, None] & real[:, None, :]  # (B, N, N)
    weights = same_word.to(hidden_states.dtype)
    means = weights @ hidden_states / weights.sum(dim=-1, keepdim=True).clamp(min=1)  # (B, N, D)
    return torch.where(real[..., None], means, hidden_states)


class Attention(nn.Module):
    """Multi-head attention with Whisper's parameters (the key projection has no bias)."""

    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        causal: bool = False,
        need_weights: bool = False,
        key_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """queries (B, N, D), keys and values (B, T, D) -> (B, N, D), and the probabilities (B, H, N, T) on request.

        key_mask: (B, 1, 1, T), False = a key that nothing may attend to.
        """
        q, k, v = (
            projection(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, H, N or T, D/H)
            for projection, x in ((self.q_proj, queries), (self.k_proj, keys), (self.v_proj, values))
        )
        if need_weights:  # the same attention, written out
            assert not causal, "maps are for cross-attention"
            scores = q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)  # (B, H, N, T)
            weights = (scores if key_mask is None else scores.masked_fill(~key_mask, -torch.inf)).softmax(dim=-1)
            mixed = weights @ v
        else:
            weights, mixed = None, F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask, is_causal=causal)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), weights  # (B, N, D)


class AggregatorLayer(nn.Module):
    """Pre-norm decoder layer: causal self-attention, cross-attention with K != V, feed-forward."""

    def __init__(self, config: AggregatorConfig):
        super().__init__()
        self.self_attn = Attention(config.d_model, config.n_heads)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.encoder_attn = Attention(config.d_model, config.n_heads)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.d_ff)
        self.fc2 = nn.Linear(config.d_ff, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def forward(
        self,
        x: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        need_weights: bool,
        key_mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        y = self.self_attn_layer_norm(x)
        x = x + self.self_attn(y, y, y, causal=True)[0]
        y = self.encoder_attn_layer_norm(x)
        attended, weights = self.encoder_attn(y, keys, values, need_weights=need_weights, key_mask=key_mask)
        x = x + attended
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x)))), weights


class Aggregator(nn.Module):
    """Transcript + (last, shallow) encoder states -> one vector per word, spread over the word's tokens."""

    def __init__(self, config: AggregatorConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.embed_positions = nn.Embedding(config.n_positions, config.d_model)
        self.layers = nn.ModuleList(AggregatorLayer(config) for _ in range(config.n_layers))
        self.layer_norm = nn.LayerNorm(config.d_model)

    def load_whisper_decoder(self, decoder: nn.Module, identity_values: bool = True) -> "Aggregator":
        """Copy the weights of a transformers Whisper decoder, whose parameter names are the same.

        With `identity_values` the value projection of each cross-attention starts as the identity, because the
        shallow states live in another space than the one that projection was trained on (paper section 3.1.2).
        """
        self.load_state_dict(decoder.state_dict())
        if identity_values:
            for layer in self.layers:
                nn.init.eye_(layer.encoder_attn.v_proj.weight)
                nn.init.zeros_(layer.encoder_attn.v_proj.bias)
        return self

    def forward(
        self,
        token_ids: torch.Tensor,
        word_ids: torch.Tensor,
        lengths: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        need_attention: bool = False,
        key_lengths: torch.Tensor | None = None,
    ) -> AggregatorOutput:
        """token_ids, word_ids: (B, N), padded with anything; lengths: (B,) real tokens; keys, values: (B, T, D).

        key_lengths: (B,) encoder frames that may be attended to; without it all of them, as in the original.

        Padded tokens cannot reach real ones (self-attention is causal) and carry meaningless vectors. For the same
        reason the end-of-text token, which the original appends and drops again, is left out.
        Raises TasteError when prefix and text exceed the position table.
        """
        # dev: no-eos
        prefix = torch.tensor(self.config.prefix, device=token_ids.device).expand(len(token_ids), -1)  # (B, P)
        ids = torch.cat([prefix, token_ids], dim=1)  # (B, P + N)
        if ids.shape[1] + 1 > self.config.n_positions:
            limit = self.config.n_positions - prefix.shape[1] - 1
            raise TasteError(f"the text has {token_ids.shape[1]} tokens, the limit is {limit}; use shorter segments.")
        x = self.embed_tokens(ids) + self.embed_positions.weight[: ids.shape[1]]
        key_mask = None
        if key_lengths is not None:
            frames = torch.arange(keys.shape[1], device=keys.device)
            key_mask = (frames < key_lengths[:, None])[:, None, None]  # (B, 1, 1, T)
        maps = []
        for layer in self.layers:
            x, weights = layer(x, keys, values, need_attention, key_mask)
            if need_attention:
                maps.append(weights[:, :, prefix.shape[1] :])  # (B, H, N, T)
        hidden_states = self.layer_norm(x)[:, prefix.shape[1] :]  # (B, N, D)
        pooled = pool_words(hidden_states, word_ids, lengths)
        return AggregatorOutput(hidden_states, pooled, torch.stack(maps, dim=1) if need_attention else None)
