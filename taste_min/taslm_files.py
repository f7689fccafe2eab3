"""Language models of the presets: where their weights come from, and the small files that training leaves.

A trained model is the frozen text model, the frozen codebooks, and an adapter of a few megabytes.
"""

import json
from pathlib import Path

import torch
from torch import nn

from .config import PRESETS, TASLM_PRESETS
from .errors import TasteError
from .export import MANIFEST, load_quantizer, read_part
from .llama import build_llm
from .quantizer import ResidualVQ
from .taslm import Taslm
from .tokenizer import CHECKPOINTS
from .unit_lm import UnitLm

SHIPPED = CHECKPOINTS / "mini_taslm"
NAMES = {f"mini-{head}": SHIPPED / f"taslm_{head}.safetensors" for head in ("token", "embedding")}
ADAPTER_PARTS = ("language_model", "fuse", "head", "unit_embedding")


def _base(preset: str):
    """Text model, its tokenizer and the codebooks: SmolLM2 and the shipped ones, or random ones for tests."""
    if preset == "mini":
        from .smollm import load_smollm

        return *load_smollm(), load_quantizer(CHECKPOINTS / "mini", PRESETS["mini"]())
    quantizer = ResidualVQ(PRESETS[preset]().rvq)
    for layer in quantizer.layers:
        layer.embed.normal_()
        layer.initted.fill_(1)
    return build_llm(TASLM_PRESETS[preset]().llm), None, quantizer


def build_taslm(preset: str, head: str) -> Taslm:
    """A joint model before its training."""
    from dataclasses import replace

    llm, tokenizer, quantizer = _base(preset)
    model = Taslm(replace(TASLM_PRESETS[preset](), head=head), quantizer, llm)
    model.tokenizer = tokenizer
    return model


def build_unit_lm(preset: str) -> UnitLm:
    """The baseline before its training."""
    return UnitLm(TASLM_PRESETS[preset](), PRESETS[preset]().flow.n_units, _base(preset)[0])


def adapter(model: Taslm | UnitLm) -> nn.Module:
    """What of a model is trained, as a module for `export.write_parts`, which leaves out frozen weights."""
    part = nn.Module()
    for name in ADAPTER_PARTS:
        if hasattr(model, name):
            part.add_module(name, getattr(model, name))
    for name, parameter in model.named_parameters(recurse=False):
        part.register_parameter(name, parameter)
    return part


def load_adapter(model: Taslm | UnitLm, path: Path) -> None:
    """Fill the trained parts of a model. Raises TasteError when the file is damaged, of another size, or when its
    manifest says that it was trained on other codebooks."""
    weights = read_part(path)
    trained = {key: p.shape for key, p in model.named_parameters() if p.requires_grad}
    if trained != {key: weight.shape for key, weight in weights.items()}:
        raise TasteError(f"{path} does not belong to this language model; export it again.")
    manifest = path.parent / MANIFEST
    facts = json.loads(manifest.read_text(encoding="utf-8"))["stages"].get(path.stem, {}) if manifest.is_file() else {}
    if isinstance(model, Taslm) and facts.get("codebooks", model.quantizer.fingerprint) != model.quantizer.fingerprint:
        raise TasteError(f"{path} was trained on the codes of another quantizer; extract them and train it again.")
    model.load_state_dict(weights, strict=False)


def is_adapter(name: str | Path) -> bool:
    """Whether a name stands for an adapter of the mini preset."""
    return str(name) in NAMES or Path(name).suffix == ".safetensors"


@torch.no_grad()
def load_mini(name: str | Path) -> Taslm:
    """ "mini-token", "mini-embedding", or an exported file; in eval mode. Raises TasteError when it is not there."""
    path = NAMES.get(str(name), Path(name))
    if not path.is_file():
        raise TasteError(f"there is no language model at {path}; train one with `taste-min train taslm_token`.")
    head = "embedding" if "head.log_variance" in read_part(path) else "token"
    model = build_taslm("mini", head)
    load_adapter(model, path)
    return model.eval()
