"""Unpacking of the text model: once, whole or not at all."""

import pytest
import torch
from fake_taste import letters
from transformers import AutoModelForCausalLM, AutoTokenizer

from taste_min import smollm
from taste_min.config import taslm_tiny
from taste_min.llama import build_llm


class Tokenizer:
    backend_tokenizer = letters()


@pytest.fixture
def asset(tmp_path, monkeypatch):
    """A cache without the unpacked model, and a file that stands for the asset."""
    (tmp_path / "model.gguf").touch()
    monkeypatch.setattr(smollm, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(smollm, "fetch", lambda name: tmp_path)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *a, **k: Tokenizer)
    return tmp_path


def test_the_model_is_unpacked_once(asset, monkeypatch):
    calls, model = [], build_llm(taslm_tiny().llm).half()
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *a, **k: calls.append(k) or model)
    for _ in range(2):
        loaded, tokenizer = smollm.load_smollm()
        assert loaded.dtype == torch.float32 and not loaded.training
        assert torch.equal(loaded.model.norm.weight, model.model.norm.weight.float())
        assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
        assert tokenizer.get_vocab() == letters().get_vocab()
    assert len(calls) == 1 and calls[0]["gguf_file"] == "model.gguf"
    assert sorted(path.name for path in asset.iterdir()) == ["model.gguf", "smollm2-unpacked"]


def test_an_interrupted_unpacking_leaves_nothing(asset, monkeypatch):
    def stop(*a, **k):
        raise KeyboardInterrupt

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *a, **k: build_llm(taslm_tiny().llm))
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", stop)
    with pytest.raises(KeyboardInterrupt):
        smollm.load_smollm()
    assert [path.name for path in asset.iterdir()] == ["model.gguf"]
