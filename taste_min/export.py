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
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn

from .aggregator import Aggregator
from .config import TasteConfig
from .errors import TasteError
from .flow import Flow
from .quantizer import ResidualVQ
from .text import load_tokenizer
from .unit_decoder import UnitDecoder
from .vocoder import Vocoder

MANIFEST, PROJECTION = "manifest.json", "text_projection"
TRAINING_ONLY = (".embed_avg", ".cluster_size")  # running statistics of the codebooks
TEXT_ONLY = "text_only"  # a unit decoder that never heard audio, the baseline
# what may be missing from a file: the aggregator's is Whisper's decoder where it was not trained
LEFT_OUT = {"aggregator": ("",), TEXT_ONLY: ("audio_", "fusion")}


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

    folder = fetch("whisper-tiny-en")
    decoder = load_whisper(folder).model.decoder
    objective.unit_decoder.spelling.read_vocabulary(load_tokenizer(folder))
    if hasattr(objective, "aggregator"):
        # Its own projection of the values rather than the identity: the deeper layers were trained behind it.
        # dev: whisper-values
        objective.aggregator.load_whisper_decoder(decoder, identity_values=False)
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
        tensors = {k: v for k, v in tensors.items() if not k.endswith(TRAINING_ONLY)}
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
        partial = folder / f"{name}.part"
        save_file(tensors, str(partial))
        partial.chmod(0o644)  # the library writes files that only their owner can read
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


def load_parts(
    folder: Path, config: TasteConfig, decoder: nn.Module | None, tokenizer: Tokenizer | None = None
) -> dict[str, nn.Module]:
    """Every part found in a folder of `write_parts`, float32, in eval mode.

    decoder: the Whisper decoder whose tables were left out, tokenizer: what its tokens spell; both None when nothing
    was left out (the tiny preset). Raises TasteError for a file that is damaged or belongs to another model.
    """
    makers = {
        "aggregator": lambda: Aggregator(config.aggregator),
        "quantizer": lambda: ResidualVQ(config.rvq),
        "unit_decoder": lambda: UnitDecoder(config.unit_decoder),
        TEXT_ONLY: lambda: UnitDecoder(config.unit_decoder),
        "flow": lambda: Flow(config.flow),
        "vocoder": lambda: Vocoder(config.vocoder),
    }
    parts = {}
    for name, make in makers.items():
        path = folder / f"{name}.safetensors"
        if not path.is_file():
            continue
        part = make()
        if decoder is not None and name == "aggregator":
            part.load_whisper_decoder(decoder)
        _load(part, path, LEFT_OUT.get(name, ()), decoder)
        if isinstance(part, UnitDecoder) and config.unit_decoder.max_letters:
            part.spelling.read_vocabulary(tokenizer)
        parts[name] = part.eval()
    return parts


def _load(part: nn.Module, path: Path, left_out: tuple[str, ...], decoder: nn.Module | None) -> None:
    """Fill one part from its file; only tensors whose names start as in `left_out` may be missing from it."""
    try:
        weights = {k: v.float() for k, v in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise TasteError(f"{path} is damaged; copy it again or export the part again.") from error
    if PROJECTION in weights and decoder is not None:
        weights["text_embedding.weight"] = decoder.embed_tokens.weight.detach() @ weights.pop(PROJECTION)
    if isinstance(part, ResidualVQ):
        for key in [key for key in weights if key.endswith(".embed")]:  # moving averages may start again
            weights.setdefault(f"{key}_avg", weights[key])
            weights.setdefault(key.replace(".embed", ".cluster_size"), torch.ones(len(weights[key])))
    own = part.state_dict()
    wrong = [key for key in weights if key not in own or own[key].shape != weights[key].shape]
    wrong += [key for key in own if key not in weights and not key.startswith(left_out)]
    if wrong:
        raise TasteError(f"{path} holds weights of another model or size ({wrong[0]} does not fit); export it again.")
    part.load_state_dict(weights, strict=False)
