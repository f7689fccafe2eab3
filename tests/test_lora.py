"""LoRA merged for generation: the same outputs, the frozen weights untouched afterwards, half precision left alone."""

import pytest
import torch

from taste_min.config import taslm_tiny
from taste_min.llama import build_llm
from taste_min.lora import LORA_TARGETS, merged, with_lora


def make(dtype=torch.float32):
    torch.manual_seed(0)
    model = with_lora(build_llm(taslm_tiny().llm).to(dtype), taslm_tiny()).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model


IDS = torch.arange(12)[None]


@torch.no_grad()
def test_merged_weights_say_the_same_and_are_put_back_bit_by_bit():
    model = make()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    logits = model(input_ids=IDS).logits
    with model.disable_adapter():
        without = model(input_ids=IDS).logits
    with merged(model):
        inside = model(input_ids=IDS).logits
        changed = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    torch.testing.assert_close(inside, logits, atol=1e-5, rtol=1e-5)
    assert (logits - without).abs().max() > 0.1
    assert len(changed) == len(LORA_TARGETS) * taslm_tiny().llm.n_layers
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert torch.equal(model(input_ids=IDS).logits, logits)


def test_an_error_inside_puts_the_weights_back_too():
    model = make()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with pytest.raises(RuntimeError, match="stop"), merged(model):
        raise RuntimeError("stop")
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


@torch.no_grad()
def test_half_precision_is_left_alone():
    model = make(torch.bfloat16)
    logits = model(input_ids=IDS).logits
    with merged(model):
        assert torch.equal(model(input_ids=IDS).logits, logits)
