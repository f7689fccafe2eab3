"""LoRA on the language model: small trained matrices beside frozen ones, by peft (paper section 4.1).

W x + s B (A x): the frozen W is left as it is, so switching LoRA off gives back the text model.
W: (n_out, n_in), A: (r, n_in), B: (n_out, r), s = lora_alpha / r.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import LlamaForCausalLM

from .config import TaslmConfig

LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def with_lora(llm: LlamaForCausalLM, config: TaslmConfig) -> PeftModel:
    """Wrap a language model; it is frozen, and its LoRA matrices are float32 and change nothing at first."""
    lora = LoraConfig(
        r=config.lora_r, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout, target_modules=LORA_TARGETS
    )
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a property under its old name
        model = get_peft_model(llm, lora)
    torch.set_rng_state(state)  # peft has filled the matrices in the order of a set: once more, in that of the layers
    for layer in _layers(model):
        layer.reset_lora_parameters("default", init_lora_weights=True)
    return model


@contextmanager
@torch.no_grad()
def merged(model: PeftModel) -> Iterator[None]:
    """LoRA as a part of the weights, W + s B A, while it lasts: fewer products per step of generation.

    The frozen weights are kept aside, for which there must be memory, and put back: adding and subtracting again would
    leave rounding errors in them. Weights in 16 bits could not hold the sum, so there nothing is merged.
    """
    layers = _layers(model)
    if any(layer.get_base_layer().weight.dtype != torch.float32 for layer in layers):
        yield
        return
    frozen = [layer.get_base_layer().weight.data for layer in layers]
    try:
        for layer, weight in zip(layers, frozen, strict=True):
            a, b, scale = (part["default"] for part in (layer.lora_A, layer.lora_B, layer.scaling))
            layer.get_base_layer().weight.data = torch.addmm(weight, b.weight, a.weight, alpha=scale)
        with model.disable_adapter():
            yield
    finally:
        for layer, weight in zip(layers, frozen, strict=True):
            layer.get_base_layer().weight.data = weight


def _layers(model: PeftModel) -> list[LoraLayer]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]
