"""Trained weights as they are shipped: float16 safetensors per part, and a manifest that says how they were made.

Weights that were not trained stay out: the aggregator's two tables are Whisper's own, and the text embedding of the
unit decoder is a projection of Whisper's token table, of which only the small projection is stored.

Axes: V vocabulary, D width.
"""

import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from .aggregator import Aggregator
from .config import TasteConfig
from .flow import Flow
from .quantizer import ResidualVQ
from .unit_decoder import UnitDecoder
from .vocoder import Vocoder

MANIFEST, PROJECTION = "manifest.json", "text_projection"
FULL_PRECISION = ("quantizer",)  # rounding its codebooks would move words to other codes


def text_projection(table: torch.Tensor, width: int) -> torch.Tensor:
    """Leading principal directions of a token table (V, D), scaled to unit variance: (D, width)."""
    values, vectors = torch.linalg.eigh(torch.cov(table.double().T))  # ascending
    projection = vectors[:, -width:] / values[-width:].sqrt()
    return projection.half().float()  # rounded as it is stored, so that a reloaded table is the same


def start_from_whisper(objective: nn.Module) -> None:
    """Give the parts of an objective of the mini preset their first weights from Whisper tiny.en.

    A few thousand sentences hold a small part of the vocabulary. With a projection of Whisper's table, which stays
    fixed, words that training never met have neighbours that it did.
    """
    if not hasattr(objective, "unit_decoder"):
        return
    from .assets import fetch
    from .ct2 import load_whisper

    decoder = load_whisper(fetch("whisper-tiny-en")).model.decoder
    if hasattr(objective, "aggregator"):
        objective.aggregator.load_whisper_decoder(decoder)
    embedding, table = objective.unit_decoder.text_embedding, decoder.embed_tokens.weight.detach()
    embedding.weight.requires_grad_(False)  # dev: projected-text
    objective.unit_decoder.register_buffer(PROJECTION, text_projection(table, embedding.embedding_dim))
    embedding.weight.copy_(table @ objective.unit_decoder.text_projection)


def write_parts(folder: Path, parts: dict[str, nn.Module]) -> list[str]:
    """Write `<part>.safetensors` for every part, each whole or not at all; returns the file names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, module in parts.items():
        frozen = {key for key, parameter in module.named_parameters() if not parameter.requires_grad}
        tensors = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items() if k not in frozen}
        if name not in FULL_PRECISION:
            tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
        partial = folder / f"{name}.part"
        save_file(tensors, str(partial))
        os.replace(partial, folder / f"{name}.safetensors")
    return [f"{name}.safetensors" for name in parts]


def write_manifest(folder: Path, stage: str, facts: dict, files: list[str]) -> dict:
    """Add one stage to the folder's manifest: what was trained, on what, how long, with which result."""
    path = folder / MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}
    manifest.setdefault("stages", {})[stage] = facts | {"sha256": hashes}
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return manifest["stages"][stage]


def load_parts(folder: Path, config: TasteConfig, decoder: nn.Module | None) -> dict[str, nn.Module]:
    """Every part found in a folder of `write_parts`, float32, in eval mode.

    decoder: the Whisper decoder whose tables were left out; None when nothing was (the tiny preset).
    """
    makers = {
        "aggregator": lambda: Aggregator(config.aggregator),
        "quantizer": lambda: ResidualVQ(config.rvq),
        "unit_decoder": lambda: UnitDecoder(config.unit_decoder),
        "flow": lambda: Flow(config.flow),
        "vocoder": lambda: Vocoder(config.vocoder),
    }
    parts = {}
    for name, make in makers.items():
        path = folder / f"{name}.safetensors"
        if not path.is_file():
            continue
        part, weights = make(), {k: v.float() for k, v in load_file(path).items()}
        if decoder is not None and name == "aggregator":
            part.load_whisper_decoder(decoder)
        if PROJECTION in weights:
            part.text_embedding.weight.data = decoder.embed_tokens.weight.detach() @ weights.pop(PROJECTION)
        missing, unknown = part.load_state_dict(weights, strict=False)
        assert not unknown, f"{path} has weights of another model: {unknown[:3]}"
        parts[name] = part.eval()
    return parts
