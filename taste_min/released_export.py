"""Writing checkpoints in the original layout, so that a model trained here loads in the original code.

Three layouts: a folder like the released one, the flat .pt of the authors' trainer, and CosyVoice's voice generator.
Names of tensors: released_keys.py. What the original cannot compute is refused. Paper sections 3.1 and 3.2.
"""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from .config import AggregatorConfig, FlowConfig, TasteConfig, VocoderConfig
from .errors import TasteError
from .golden import Tensors
from .released_config import HEADS, LORA, ONLY, OWN, ROPE, RVQ, TOWER
from .released_files import LLAMA, LLAMA_FOLDER, TRAINER_FILE, WHISPER, WHISPER_FOLDER
from .released_keys import LLM, PREFIXES, to_original, to_trainer
from .taslm import Taslm
from .tokenizer import Taste

ENCODER = "distil-whisper/distil-large-v3"  # the original fetches it and then replaces its weights
VOICE_FILE = "cosyvoice/voice_generator.pth"


def command(args) -> int:
    """`taste-min export`: a tokenizer, with or without a language model, in a layout that the original code reads."""
    out = Path(args.out)
    if out.exists() and not args.force:
        raise TasteError(f"{out} exists already; add --force to replace what it holds or choose another name.")
    taste = Taste.from_pretrained(args.preset)
    if out.suffix != TRAINER_FILE:
        files = export_original(out, taste, Taslm.from_pretrained(args.taslm) if args.taslm else None)
    elif args.taslm:
        raise TasteError(f"a {TRAINER_FILE} file holds a tokenizer only; for a language model name a folder.")
    else:
        export_trainer(out, taste)
        files = [out.name]
    print(json.dumps({"files": files}) if args.json else f"{out}: {', '.join(files)}")
    return 0


def export_original(folder: str | Path, taste: Taste, taslm: Taslm | None = None) -> list[str]:
    """Write a folder in the released layout: config.json, model.safetensors, voice generator, the two tokenizers.

    Returns the names of the files. Without `taslm` it is a tokenizer; this package loads it, the original wants it as
    `export_trainer` writes it. The voice generator is left out when taste has no flow or no vocoder.
    Raises TasteError when the original has no counterpart for something in the model.
    """
    folder = Path(folder)
    tensors = _tokenizer_tensors(taste)
    voice = [part for part in ("flow", "vocoder") if getattr(taste, part) is not None]
    if len(voice) == 2:
        _check_voice(taste.config)
    if taslm is not None:
        tensors |= _taslm_tensors(taslm, taste)
    settings = describe(taste.config, taslm, str(taste.encoder.encoder.conv1.weight.dtype).removeprefix("torch."))
    files = {"config.json": lambda path: path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")}
    # transformers reads files that say so only
    files["model.safetensors"] = lambda path: save_file(tensors, str(path), metadata={"format": "pt"})
    if len(voice) == 2:
        files[VOICE_FILE] = lambda path: torch.save(_states({part: getattr(taste, part) for part in voice}), path)
    files[f"{WHISPER_FOLDER}/tokenizer.json"] = lambda path: taste.tokenizer.save(str(path))
    if taslm is not None and taslm.tokenizer is not None:
        files[f"{LLAMA_FOLDER}/tokenizer.json"] = lambda path: taslm.tokenizer.save(str(path))
    for name, write in files.items():
        _whole(folder / name, write)
    return list(files)


def export_trainer(path: str | Path, taste: Taste) -> None:
    """Write a tokenizer as the flat state dict of the authors' trainer, a .pt file. Raises TasteError as above."""
    tensors = to_trainer(_tokenizer_tensors(taste))
    _whole(Path(path), lambda partial: torch.save(tensors, partial))


def describe(config: TasteConfig, taslm: Taslm | None = None, tower_dtype: str = "bfloat16") -> dict:
    """config.json of the original for these sizes; tower_dtype is the type of encoder and aggregator."""
    rvq, decoder = config.rvq, config.unit_decoder
    settings: dict = {"model_type": "taste", "architectures": ["TasteForCausalLM"]}
    for path, value in ONLY.items():
        _set(settings, path, value)
    for path, value in {
        "audio_tower_config.text_token_size": config.aggregator.vocab_size,
        "audio_tower_config.audio_embed_dim": config.encoder.d_model,
        "audio_tower_config.audio_dropout_ratio": 0.0,
        f"{TOWER}.model_name_or_path": ENCODER,
        f"{TOWER}.dtype": tower_dtype,
        f"{TOWER}.make_v_proj_identity": True,
        f"{TOWER}.target_hidden_layer": config.encoder.shallow_layer,
        f"{RVQ}.dim": rvq.d_model,
        f"{RVQ}.codebook_dim": rvq.codebook_dim,
        f"{RVQ}.num_quantizers": rvq.n_quantizers,
        f"{RVQ}.codebook_size": rvq.codebook_size,
        f"{RVQ}.decay": rvq.decay,
        f"{RVQ}.kmeans_init": True,
        f"{RVQ}.kmeans_iters": rvq.kmeans_iters,
        f"{RVQ}.quantize_dropout": rvq.quantizer_dropout,
        "asr_config.model_type": "whisper",
        "asr_config._name_or_path": WHISPER,
    }.items():
        _set(settings, path, value)
    settings["speech_decoder_config"] |= {
        "encoder_input_size": decoder.d_text,
        "audio_encoder_input_size": decoder.d_taste,
        "llm_input_size": decoder.d_model,
        "llm_output_size": decoder.d_model,
        "text_token_size": decoder.vocab_size,
        "speech_token_size": decoder.n_units,
        "spk_embed_dim": decoder.d_speaker,
        "length_normalized_loss": True,
        "lsm_weight": decoder.label_smoothing,
    }
    for stack, n_layers, input_layer in (
        ("encoder", decoder.n_text_layers, "linear"),
        ("llm", decoder.n_layers, "linear_legacy"),
    ):
        sizes = {
            "attention_heads": decoder.n_heads,
            "linear_units": decoder.d_ff,
            "num_blocks": n_layers,
            "dropout_rate": decoder.dropout,
            "positional_dropout_rate": decoder.position_dropout,
            "attention_dropout_rate": 0.0,
            "input_layer": input_layer,
            "pos_enc_layer_type": "rel_pos_espnet",
            "selfattention_layer_type": "rel_selfattn",
            "static_chunk_size": 1,
        }
        settings["speech_decoder_config"] |= {f"{stack}__{key}": value for key, value in sizes.items()}
    if taslm is not None:
        _describe_taslm(settings, taslm)
    return settings


def _describe_taslm(settings: dict, taslm: Taslm) -> None:
    config, llm = taslm.config, taslm.config.llm
    settings["spoken_lm_config"] |= {
        "sos_id": config.sos_id,
        "loss_weights": f"{config.text_weight:g}-{config.taste_weight:g}",
        "delay": config.delay,
        "delay_level": config.delay_level,
        "out_llm_module": next(theirs for theirs, ours in HEADS.items() if ours == config.head),
        "use_lora": True,
    }
    lora = {"lora_r": config.lora_r, "lora_alpha": config.lora_alpha, "lora_dropout": config.lora_dropout}
    _set(settings, LORA, lora | {"lora_target_linear": True})
    settings["text_config"] = {
        "model_type": "llama",
        "_name_or_path": LLAMA,
        "vocab_size": llm.vocab_size,
        "hidden_size": llm.d_model,
        "intermediate_size": llm.d_ff,
        "num_hidden_layers": llm.n_layers,
        "num_attention_heads": llm.n_heads,
        "num_key_value_heads": llm.n_kv_heads,
        "head_dim": llm.head_dim,
        "max_position_embeddings": llm.n_positions,
        "rms_norm_eps": llm.norm_eps,
        "rope_theta": llm.rope_theta,
        "rope_scaling": {"rope_type": "llama3"} | ROPE if llm.llama3_rope else None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16" if config.bfloat16 else "float32",
    }
    settings[OWN] = {"round_rope": config.round_rope, "latent_adds_std": config.latent_adds_std}


def _tokenizer_tensors(taste: Taste) -> Tensors:
    config = taste.config
    if config.unit_decoder.pronounced:
        raise TasteError("the original decoder reads tokens, this one reads sounds; train one that is not pronounced.")
    if config.aggregator.prefix != AggregatorConfig().prefix:
        raise TasteError(
            f"the original always starts a text with the tokens {AggregatorConfig().prefix}, this model with "
            f"{config.aggregator.prefix}; train with the multilingual Whisper tokenizer."
        )
    parts = {part: taste.part(part) for part in ("quantizer", "unit_decoder")}
    return _states({"encoder": taste.encoder, "aggregator": taste.aggregator, **parts})


def _taslm_tensors(taslm: Taslm, taste: Taste) -> Tensors:
    ours, theirs = taslm.quantizer.state_dict(), taste.quantizer.state_dict()
    if not all(torch.equal(ours[key], theirs[key]) for key in ours if key.endswith((".embed", "weight", "bias"))):
        raise TasteError("the language model reads the codes of another tokenizer; export it with the one it knows.")
    tensors = _states({"taslm": taslm})
    # The original loads noise where the output embedding is not stored on its own, and this file format wants a copy.
    head, table = (f"{PREFIXES['taslm']}{LLM}{name}.weight" for name in ("lm_head", "model.embed_tokens"))
    if tensors[head].data_ptr() == tensors[table].data_ptr():
        tensors[head] = tensors[head].clone()
    if taslm.config.head == "token_soft":  # dev: dead-mlps  the original builds this one too and never uses it
        rvq = taslm.config.rvq
        name = f"{PREFIXES['taslm']}extract_for_bridge_out_llm.b_logvar"
        tensors[name] = torch.zeros(rvq.n_quantizers * rvq.codebook_dim)
    return tensors


def _check_voice(config: TasteConfig) -> None:
    if config.flow.pronounced:
        raise TasteError("the original flow hears units only, this one also sounds; train one that is not pronounced.")
    flow, same = config.flow, ("mel_mean", "mel_std", "speaker_in_encoder", "start_at_mu")
    for key in same:
        if getattr(flow, key) != getattr(FlowConfig(), key):
            raise TasteError(f"the original flow has no {key}; train a flow with {key}={getattr(FlowConfig(), key)}.")
    released = VocoderConfig()
    for key in ("upsample_rates", "upsample_kernels", "resblock_kernels", "source_kernels", "dilations", "n_harmonics"):
        if getattr(config.vocoder, key) != getattr(released, key):
            raise TasteError(f"the original vocoder has {key} = {getattr(released, key)}; train one with these.")


def _states(modules: dict[str, nn.Module]) -> Tensors:
    tensors = to_original({part: module.state_dict() for part, module in modules.items()})
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _set(settings: dict, path: str, value) -> None:
    *sections, key = path.split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
    settings[key] = value


def _whole(path: Path, write) -> None:
    """Write a file completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    write(partial)
    partial.chmod(0o644)  # some libraries write files that only their owner can read
    os.replace(partial, path)
