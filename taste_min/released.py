"""Original checkpoints: the released model, tokenizers of the authors' trainer, and CosyVoice's voice generator.

Modules are built without memory (meta device) and then take the tensors of the memory-mapped files as they are. So
nothing is initialised or fetched to be overwritten, loading needs hardly more memory than the weights, and what is
never used is never read. Paper sections 3.1 and 3.2; names of tensors: released_keys.py, sizes: released_config.py.

`what` is one of the parts encoder, aggregator, quantizer, unit_decoder, flow, vocoder and taslm.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from .asr import SpeechRecognizer
from .assets import fetch
from .config import TaslmConfig, TasteConfig
from .errors import TasteError
from .export import MAKERS
from .golden import Tensors
from .llama import build_llm
from .quantizer import ResidualVQ
from .released_config import (
    LORA,
    read_settings,
    taslm_config,
    taste_config,
)
from .released_files import (
    LLAMA,
    LLAMA_FOLDER,
    TRAINER_FILE,
    WHISPER,
    WHISPER_FOLDER,
    Late,
    locate,
    read_pickle,
    read_tensors,
    read_tokenizer,
    read_voice,
    setting,
)
from .released_keys import LLM, PREFIXES, add_lora, from_trainer, to_ours
from .s3 import S3Tokenizer
from .speaker import CAMPPlus
from .taslm import Taslm
from .tokenizer import Taste

RELEASED = "MediaTek-Research/Llama-1B-TASTE-V0"


def load_taste(name: str | Path = RELEASED) -> Taste:
    """A tokenizer in eval mode on the CPU: a folder or hub id in the released layout, or a trainer's .pt file.

    Encoder and aggregator keep bfloat16 where all their tensors have it; `.float()` on the result makes them slower
    and more exact. Everything else is float32. Flow and vocoder are read from `cosyvoice/` or from beside the
    checkpoint (voice_generator.pth, or flow.pt and hift.pt); without them they are None. The recogniser, the speaker
    encoder and the units are opened when they are first used. Raises TasteError for what is missing or does not fit.
    """
    path, settings = Path(name), {}
    if path.suffix == TRAINER_FILE and not path.is_dir():
        folder, tensors = path.parent, from_trainer(read_pickle(path))
    else:
        folder = locate(name, ["cosyvoice/*"])
        settings = read_settings(folder)
        tensors = read_tensors(folder, ("audio_tower.", "speech_decoder."))
    parts = to_ours(tensors | read_voice(folder))
    config = taste_config(parts, settings)
    modules = {part: build(part, config, weights) for part, weights in parts.items()}
    tokenizer = read_tokenizer(folder / WHISPER_FOLDER, settings, "asr_config", WHISPER, config.aggregator.vocab_size)
    return Taste(
        config,
        modules["encoder"],
        modules["aggregator"],
        modules["quantizer"],
        tokenizer,
        # dev: small-recogniser
        Late(lambda: SpeechRecognizer.from_folder(fetch("whisper-tiny-en"))),
        Late(lambda: CAMPPlus(folder / "cosyvoice" / "speaker_embed.onnx")),
        Late(lambda: S3Tokenizer(folder / "cosyvoice" / "speech_tokenizer_v1.onnx")),
        modules["unit_decoder"],
        flow=modules.get("flow"),
        vocoder=modules.get("vocoder"),
    ).eval()


def load_taslm(name: str | Path = RELEASED) -> Taslm:
    """The joint language model of a folder or hub id in the released layout, in eval mode on the CPU.

    Its backbone is bfloat16 if it was stored so; LoRA, fusion and head are float32. The attribute `tokenizer` is that
    of the text model. Raises TasteError for what is missing or does not fit.
    """
    folder = locate(name)
    settings = read_settings(folder)
    parts = to_ours(read_tensors(folder, (PREFIXES["quantizer"], PREFIXES["taslm"])))
    if "taslm" not in parts:
        raise TasteError(f"{folder} holds a tokenizer without a language model; name another checkpoint.")
    if not any("lora_A" in key for key in parts["taslm"]):
        parts["taslm"] = add_lora(parts["taslm"], setting(settings, f"{LORA}.lora_r", 64))
    config = taslm_config(parts, settings)
    model = empty_taslm(config)
    weights = parts["taslm"] | {f"quantizer.{key}": value for key, value in parts["quantizer"].items()}
    _fill(model, weights, "language model")
    if weights[f"{LLM}lm_head.weight"] is weights[f"{LLM}model.embed_tokens.weight"]:  # stored once
        model.llm.lm_head.weight = model.llm.model.embed_tokens.weight
    model.tokenizer = read_tokenizer(folder / LLAMA_FOLDER, settings, "text_config", LLAMA, config.llm.vocab_size)
    return model.eval()


def empty(what: str, config: TasteConfig, bfloat16: bool = False) -> nn.Module:
    """One part of a tokenizer without memory for its weights."""
    module = _empty(MAKERS[what], config)
    return module.to(torch.bfloat16) if bfloat16 else module


def build(what: str, config: TasteConfig, weights: Tensors) -> nn.Module:
    """One part of a tokenizer that holds the given tensors themselves."""
    bfloat16 = what in ("encoder", "aggregator") and all(v.dtype == torch.bfloat16 for v in weights.values())
    return _fill(empty(what, config, bfloat16), weights, what)


def empty_taslm(config: TaslmConfig) -> Taslm:
    """A joint language model without memory for its weights; only the rotary table, which no file holds, is real."""
    llm = _empty(build_llm, config.llm)
    llm.model.rotary_emb = LlamaRotaryEmbedding(llm.config)
    return _empty(Taslm, config, _empty(ResidualVQ, config.rvq), llm)


def _empty(make: Callable, *arguments) -> nn.Module:
    with torch.device("meta"):
        return make(*arguments)


def _fill(module: nn.Module, weights: Tensors, what: str) -> nn.Module:
    """Put tensors into a module from `_empty`, cast where their type differs. Raises TasteError unless all fit."""
    own = module.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in weights]
    wrong += [f"{name} is not part of it" for name in weights if name not in own]
    wrong += [
        f"{name} has shape {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own.keys() & weights.keys()
        if weights[name].shape != own[name].shape
    ]
    if wrong:
        raise TasteError(f"the {what.replace('_', ' ')} of this checkpoint does not fit: {wrong[0]}; copy it again.")
    module.load_state_dict({name: value.to(own[name].dtype) for name, value in weights.items()}, assign=True)
    left = [name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if tensor.is_meta]
    assert not left, f"no file holds {left}"
    return module.eval()
