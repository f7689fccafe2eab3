"""Adapters of the mini preset: names, what is refused, and their size."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from taste_min import taslm_files
from taste_min.config import taslm_mini
from taste_min.errors import TasteError
from taste_min.export import write_parts
from taste_min.llama import build_llm
from taste_min.lora import LORA_TARGETS
from taste_min.taslm import Taslm
from taste_min.taslm_files import NAMES, adapter, build_taslm, is_adapter

SHIPPED_BYTES = 15e6


def test_names_of_adapters():
    assert is_adapter("mini-token") and is_adapter("mini-embedding") and is_adapter("a/taslm_token.safetensors")
    assert not is_adapter("MediaTek-Research/Llama-1B-TASTE-V0") and not is_adapter("some/folder")


@pytest.mark.parametrize("head", ["token", "embedding"])
def test_from_pretrained_finds_the_head_in_the_file(head, tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = build_taslm("tiny", head)
    write_parts(tmp_path, {f"taslm_{head}": adapter(model)})
    monkeypatch.setattr(taslm_files, "build_taslm", lambda preset, head: build_taslm("tiny", head))
    loaded = Taslm.from_pretrained(tmp_path / f"taslm_{head}.safetensors")
    assert loaded.config.head == head and not loaded.training
    assert torch.equal(loaded.fuse.linear.weight, model.fuse.linear.weight.half().float())
    with pytest.raises(TasteError, match="no language model at"):
        Taslm.from_pretrained(tmp_path / "other.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(TasteError, match="damaged"):
        Taslm.from_pretrained(tmp_path / "bad.safetensors")


def test_both_adapters_of_the_mini_preset_stay_small():
    config = taslm_mini()
    with torch.device("meta"):
        llm: LlamaForCausalLM = build_llm(config.llm)
        lora = get_peft_model(llm, LoraConfig(r=config.lora_r, target_modules=LORA_TARGETS))
        n = sum(p.numel() for p in lora.parameters() if p.requires_grad)
    width, rvq = config.llm.d_model, config.rvq
    fuse = (rvq.d_model + 1) * width + 2 + width + rvq.d_model
    heads = (width + 1) * (rvq.n_quantizers * rvq.codebook_size + rvq.codebook_dim) + rvq.codebook_dim
    assert 2 * (2 * (n + fuse) + heads) < SHIPPED_BYTES
    shipped = [path for path in map(Path, NAMES.values()) if path.is_file()]
    assert sum(path.stat().st_size for path in shipped) < SHIPPED_BYTES
