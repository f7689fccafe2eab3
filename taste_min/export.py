"""Trained weights as they are shipped: float16 safetensors per part, and a manifest that says how they were made.

Weights that were not trained stay out: what the aggregator keeps of Whisper's decoder comes from there again.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from tokenizers import Tokenizer
from torch import nn

from .aggregator import Aggregator
from .config import TasteConfig
from .encoder import WhisperEncoder
from .errors import TasteError
from .files import write_whole
from .flow import Flow
from .quantizer import ResidualVQ
from .text import load_tokenizer
from .unit_decoder import UnitDecoder
from .vocoder import Vocoder

MANIFEST = "manifest.json"
TRAINING_ONLY = (".embed_avg", ".cluster_size")  # running statistics of the codebooks
TEXT_ONLY = "text_only"  # a unit decoder that never heard audio, the baseline
# what may be missing from a file: the aggregator's is Whisper's decoder where it was not trained
LEFT_OUT = {"aggregator": ("",), TEXT_ONLY: ("audio_", "fusion")}
MAKERS: dict[str, Callable[[TasteConfig], nn.Module]] = {
    "encoder": lambda config: WhisperEncoder(config.encoder),
    "aggregator": lambda config: Aggregator(config.aggregator),
    "quantizer": lambda config: ResidualVQ(config.rvq),
    "unit_decoder": lambda config: UnitDecoder(config.unit_decoder),
    "flow": lambda config: Flow(config.flow),
    "vocoder": lambda config: Vocoder(config.vocoder),
}


def start_from_whisper(objective: nn.Module) -> None:
    """Give the aggregator of an objective of the mini preset its first weights from Whisper tiny.en, and the unit
    decoder what the tokens spell.
    """
    if not hasattr(objective, "unit_decoder"):
        return
    from .assets import fetch
    from .ct2 import load_whisper

    folder = fetch("whisper-tiny-en")
    objective.unit_decoder.reader.read_vocabulary(load_tokenizer(folder))
    if hasattr(objective, "aggregator"):
        # Its own projection of the values rather than the identity: the deeper layers were trained behind it.
        # dev: whisper-values
        objective.aggregator.load_whisper_decoder(load_whisper(folder).model.decoder, identity_values=False)


def write_parts(folder: Path, parts: dict[str, nn.Module]) -> list[str]:
    """Write `<part>.safetensors` for every part, each whole or not at all; returns the file names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, module in parts.items():
        named = module.named_parameters(remove_duplicate=False)  # a tied weight has two names
        frozen = {key for key, parameter in named if not parameter.requires_grad}
        tensors = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items() if k not in frozen}
        tensors = {k: v for k, v in tensors.items() if not k.endswith(TRAINING_ONLY)}
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
        write_whole(folder / f"{name}.safetensors", save(tensors))
    return [f"{name}.safetensors" for name in parts]


def read_stages(folder: Path) -> dict[str, dict]:
    """The stages in the folder's manifest; {} without one. Raises TasteError when it is damaged."""
    path = folder / MANIFEST
    try:
        stages = json.loads(path.read_text(encoding="utf-8"))["stages"] if path.is_file() else {}
        if not all(isinstance(facts, dict) for facts in stages.values()):
            raise ValueError("a stage is no table")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TasteError(f"{path} is damaged; delete it and run the same command again, with --resume.") from error
    return stages


def write_manifest(folder: Path, stage: str, facts: dict, files: list[str]) -> dict:
    """Add one stage to the folder's manifest: what was trained, on what, how long, with which result.

    Raises TasteError when the manifest that is there is damaged.
    """
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}
    stages = read_stages(folder) | {stage: facts | {"sha256": hashes}}
    write_whole(folder / MANIFEST, json.dumps({"stages": stages}, indent=2) + "\n")
    return stages[stage]


def load_parts(
    folder: Path, config: TasteConfig, decoder: nn.Module | None, tokenizer: Tokenizer | None = None
) -> dict[str, nn.Module]:
    """Every part found in a folder of `write_parts`, float32, in eval mode.

    decoder: the Whisper decoder that fills what was left out of the aggregator, tokenizer: what the text tokens spell;
    both None for the tiny preset. Raises TasteError for a file that is damaged or belongs to another model.
    """
    parts = {}
    for name in (*MAKERS, TEXT_ONLY):
        path = folder / f"{name}.safetensors"
        if not path.is_file():
            continue
        part = MAKERS["unit_decoder" if name == TEXT_ONLY else name](config)
        if decoder is not None and name == "aggregator":
            part.load_whisper_decoder(decoder)
        _load(part, path, LEFT_OUT.get(name, ()))
        if isinstance(part, UnitDecoder) and config.unit_decoder.pronounced:
            if tokenizer is None:
                raise TasteError("this unit decoder reads sounds; pass the tokenizer that its text comes from.")
            part.reader.read_vocabulary(tokenizer)
        parts[name] = part.eval()
    return parts


def load_quantizer(folder: Path, config: TasteConfig) -> ResidualVQ:
    """The codebooks alone, in eval mode."""
    quantizer = ResidualVQ(config.rvq)
    _load(quantizer, folder / "quantizer.safetensors", ())
    return quantizer.eval()


def read_part(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of one exported part as float32. Raises TasteError when the file is damaged."""
    try:
        return {k: v.float() for k, v in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise TasteError(f"{path} is damaged; copy it again or export the part again.") from error


def start_from_parts(objective: nn.Module, folder: Path) -> list[str]:
    """Give the parts of an objective the weights of exported parts with the same names, where their sizes agree.

    The aggregator is not taken: its last layer norm was changed for export. Returns the names of the tensors that keep
    their first weights. Raises TasteError when the folder holds none of the objective's parts.
    """
    found, kept = False, []
    for name, part in objective.named_children():
        path = folder / f"{name}.safetensors"
        if name == "aggregator" or not path.is_file():
            continue
        found, own, weights = True, part.state_dict(), read_part(path)
        fitting = {k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}
        part.load_state_dict(fitting, strict=False)
        kept += [f"{name}.{key}" for key in own if key not in fitting]
    if not found:
        raise TasteError(f"{folder} holds neither a run nor exported parts that this stage could start from.")
    return kept


def _load(part: nn.Module, path: Path, left_out: tuple[str, ...]) -> None:
    """Fill one part from its file; only tensors whose names start as in `left_out` may be missing from it."""
    weights = read_part(path)
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
