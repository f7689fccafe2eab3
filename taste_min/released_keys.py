"""Names of the original checkpoints' tensors <-> ours, for every part (paper sections 3.1 and 3.2).

The released model is one state dict with the prefixes audio_tower, speech_decoder and spoken_lm; flow and vocoder are
another one, the voice generator. Tokenizers from the authors' trainer are flat and call two parts differently.
Most names within a part are the same; each part's own file knows the others (`rename_original`).

Axes: R quantiser layer, K codebook size, d codebook width.
"""

from pathlib import Path

import torch

from . import quantizer, taslm, unit_decoder, vocoder
from .errors import TasteError
from .golden import Tensors, strip_prefix
from .lora import LORA_TARGETS

PREFIXES = {
    "encoder": "audio_tower.audio_joint_encoder_segmenter.audio_encoder.",
    "aggregator": "audio_tower.audio_joint_encoder_segmenter.audio_segmenter.decoder.",
    "quantizer": "audio_tower.vq.rvq.",
    "unit_decoder": "speech_decoder.",
    "taslm": "spoken_lm.",
    "flow": "flow.",
    "vocoder": "hift.",
}
UNREAD = f"{PREFIXES['quantizer']}mlps."  # networks that the original builds, stores and never runs
LLM, PLAIN_LLM = "language_model.base_model.model.", "language_model."  # with LoRA, without


def to_ours(tensors: Tensors) -> dict[str, Tensors]:
    """Original names -> one state dict per part, under our names. Parts without any tensor are left out.

    What nothing reads is dropped; running averages of the codebooks and the output embedding may be missing.
    Raises TasteError for a name that no part has.
    """
    unknown = [name for name in tensors if not name.startswith(tuple(PREFIXES.values()))]
    if unknown:
        raise TasteError(f"'{unknown[0]}' is no tensor of an original TASTE checkpoint; name another file or folder.")
    renames = {
        "quantizer": quantizer.rename_original,  # drops the tensors at UNREAD
        "unit_decoder": unit_decoder.rename_original,
        "taslm": _taslm_to_ours,
        "vocoder": vocoder.rename_original,
    }
    parts = {part: strip_prefix(tensors, prefix) for part, prefix in PREFIXES.items()}
    return {part: renames.get(part, dict)(weights) for part, weights in parts.items() if weights}


def to_original(parts: dict[str, Tensors]) -> Tensors:
    """The way back: state dicts of our parts -> original names. Tensors that nothing reads are zeros."""
    renames = {
        "quantizer": _quantizer_to_original,
        "unit_decoder": _unit_decoder_to_original,
        "taslm": _taslm_to_original,
        "vocoder": _vocoder_to_original,
    }
    return {
        f"{PREFIXES[part]}{name}": value
        for part, weights in parts.items()
        for name, value in renames.get(part, dict)(weights).items()
    }


def from_trainer(tensors: Tensors) -> Tensors:
    """A tokenizer's flat state dict, as the authors' trainer writes it -> names of the released checkpoint."""
    renamed = {}
    for name, value in tensors.items():
        name = name.removeprefix("module.")  # of a model trained on several devices
        _, tower, rest = name.partition("audio_tokenizer.")
        renamed[f"audio_tower.{rest.replace('audio_quantizer.', 'vq.')}" if tower else f"speech_decoder.{name}"] = value
    return renamed


def to_trainer(tensors: Tensors) -> Tensors:
    """The way back; takes the tensors of a tokenizer only."""
    renamed = {}
    for name, value in tensors.items():
        tower = name.removeprefix("audio_tower.")
        if tower != name:
            renamed[f"audio_tokenizer.{tower.replace('vq.', 'audio_quantizer.', 1)}"] = value
        else:
            renamed[name.removeprefix("speech_decoder.")] = value
    return renamed


def read_keys(path: Path) -> Tensors:
    """A list of released tensors, lines of `name <tab> shape <tab> dtype` -> tensors without memory (meta device)."""
    tensors = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            name, shape, dtype = line.split("\t")
            sizes = [int(size) for size in shape.strip("()").split(",") if size.strip()]
            dtype = getattr(torch, dtype.removeprefix("torch."))
            tensors[name] = torch.empty(sizes, dtype=dtype, device="meta")
        except (ValueError, AttributeError) as error:
            raise TasteError(f"{path.name} is not a list of tensors (line '{line[:60]}'); copy it again.") from error
    return tensors


def add_lora(weights: Tensors, r: int) -> Tensors:
    """LoRA matrices that change nothing yet, beside every weight they belong to; for a checkpoint without LoRA."""
    added = dict(weights)
    for name, weight in weights.items():
        if name.endswith(".base_layer.weight"):
            down = torch.empty(r, weight.shape[1])
            torch.nn.init.kaiming_uniform_(down, a=5**0.5)
            added[name.replace("base_layer", "lora_A.default")] = down
            added[name.replace("base_layer", "lora_B.default")] = torch.zeros(weight.shape[0], r)
    return added


def _taslm_to_ours(weights: Tensors) -> Tensors:
    renamed = {}
    for name, value in weights.items():
        if name.startswith(PLAIN_LLM) and not name.startswith(LLM):
            *path, layer, kind = name.replace(PLAIN_LLM, LLM, 1).split(".")
            name = ".".join([*path, layer, "base_layer", kind] if layer in LORA_TARGETS else [*path, layer, kind])
        renamed[name] = value
    if f"{LLM}model.embed_tokens.weight" not in renamed:
        raise TasteError("the checkpoint has a language model without token embeddings; copy all of its files.")
    return taslm.rename_original(renamed)


def _taslm_to_original(weights: Tensors) -> Tensors:
    names = {ours: theirs for theirs, ours in taslm.ORIGINAL_NAMES.items()}
    renamed = {}
    for name, value in weights.items():
        if name.startswith("quantizer."):  # stored with the tokenizer
            continue
        ours = next((start for start in names if name.startswith(start)), "")
        renamed[names.get(ours, "") + name.removeprefix(ours)] = value
    return renamed


def _quantizer_to_original(weights: Tensors) -> Tensors:
    renamed = {}
    for name, value in weights.items():
        if name.startswith("layers."):
            _, layer, kind = name.split(".")
            name, value = f"layers.{layer}._codebook.{kind}", value[None]
        renamed[name] = value
    d = len(weights["project_in.bias"])
    blank = weights["project_in.bias"].new_zeros
    n_layers = sum(name.endswith(".initted") for name in weights)
    for mlp in (f"mlps.{r}." for r in range(n_layers - 1)):  # dev: dead-mlps
        renamed |= {f"{mlp}proj_in.weight": blank(d, 2 * d), f"{mlp}proj_in.bias": blank(d)}
        for layer in (f"{mlp}layers.{i}.{j}." for i in range(4) for j in (0, 2)):
            renamed |= {f"{layer}weight": blank(d, d), f"{layer}bias": blank(d)}
    return renamed


def _unit_decoder_to_original(weights: Tensors) -> Tensors:
    renamed = {}
    for name, value in weights.items():
        if name.startswith("llm.encoders."):
            name = name.replace(".norm_mha.", ".norm1.").replace(".norm_ff.", ".norm2.")
        renamed[name.replace("fusion.", "fuse_encoded_audio_text_module.")] = value
    return renamed


def _vocoder_to_original(weights: Tensors) -> Tensors:
    for theirs, ours in vocoder.ORIGINAL_NAMES.items():
        weights = {name.replace(ours, theirs): value for name, value in weights.items()}
    return weights
