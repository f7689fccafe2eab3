"""The text language model under the joint one: a Llama of given sizes, by transformers (paper section 3.2).

Axes: B batch, N positions, V vocabulary.
"""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from .config import LlamaSizes


def text_logits(llm: LlamaForCausalLM, token_ids: torch.Tensor) -> torch.Tensor:
    """Logits (B, N, V) of a text model alone on sos + text, token_ids (B, N); -1 after the end is read as token 0."""
    return llm(input_ids=token_ids.clamp(min=0), use_cache=False).logits


def build_llm(sizes: LlamaSizes) -> LlamaForCausalLM:
    """A Llama with random weights and tied input and output embeddings."""
    rope = {"rope_type": "default", "rope_theta": sizes.rope_theta}
    if sizes.llama3_rope:
        rope |= {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        rope |= {"original_max_position_embeddings": 8192}
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=sizes.vocab_size,
            hidden_size=sizes.d_model,
            intermediate_size=sizes.d_ff,
            num_hidden_layers=sizes.n_layers,
            num_attention_heads=sizes.n_heads,
            num_key_value_heads=sizes.n_kv_heads,
            head_dim=sizes.head_dim,
            max_position_embeddings=sizes.n_positions,
            rms_norm_eps=sizes.norm_eps,
            rope_parameters=rope,
            tie_word_embeddings=True,
        )
    )
