"""What an original checkpoint is: sizes from the shapes of its tensors, everything else from its config.json.

The original's config.json leaves out values that equal a default and names other models for the sizes of Whisper, so
the shapes are the surer source; a bare state dict has nothing else (paper sections 3.1 and 3.2).

Axes: D width, R quantiser layer, K codebook size, d codebook width, M mel bands.
"""

import json
from pathlib import Path

from .config import (
    AggregatorConfig,
    EncoderConfig,
    FlowConfig,
    LlamaSizes,
    RVQConfig,
    TaslmConfig,
    TasteConfig,
    UnitDecoderConfig,
    VocoderConfig,
)
from .errors import TasteError
from .golden import Tensors
from .released_files import setting
from .released_keys import LLM, PREFIXES

HEADS = {"continue_latent_linear_last": "embedding", "linear_last": "token", "multi_linear_last": "token_soft"}
HEAD_WIDTH = 64  # of the attention heads of every Whisper model, and of the flow's U-Net
TOWER = "audio_tower_config.kwargs_for_joint_encoder_segmenter"
RVQ = "audio_tower_config.kwargs_for_quantizer"
LORA = "spoken_lm_config.kwargs_for_lora"
OWN = "taste_min"  # section of an exported config.json for what the original has no key for; the original ignores it
ROPE = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
# what this package computes, and what a missing key means
ONLY = {
    "audio_tower_config.is_joint_encoder_segmenter": True,
    "audio_tower_config.quantization_on": True,
    f"{TOWER}.forward_type": "asr_attn_pooling",
    f"{TOWER}.is_word_level": True,
    f"{TOWER}.skip_prefix_idx": len(AggregatorConfig().prefix),
    f"{RVQ}.quantizer_class": "rvq",
    "speech_decoder_config.fuse_encoded_audio_text_type": "weighted_sum",
    "speech_decoder_config.fuse_encoded_audio_text_kwargs.normalize": False,
    "spoken_lm_config.in_llm_module": "weighted_sum",
    "spoken_lm_config.audio_embed_conv_mode": "fill_forward",
}


def read_settings(folder: Path) -> dict:
    """config.json of an original checkpoint. Raises TasteError: missing, damaged, or not a model we can compute."""
    path = folder / "config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TasteError(f"there is no config.json in {folder}; name the folder of an original checkpoint.") from error
    except (ValueError, RecursionError) as error:  # wrong JSON, not even text, or nested without end
        raise TasteError(f"{path} is damaged; copy it again.") from error
    if setting(settings, "model_type") != "taste":
        raise TasteError(f"{path} does not describe a TASTE model (model_type is not 'taste'); name another folder.")
    for key, value in ONLY.items():
        if setting(settings, key, value) != value:
            raise TasteError(f"{path} has {key} = {setting(settings, key)!r:.80}; only {value!r} is supported.")
    return settings


def _share(settings: dict, path: str, default: float) -> float:
    """The same as `setting`, for a number from 0 to 1."""
    value = setting(settings, path, default)
    if not 0 <= value <= 1:
        raise TasteError(f"config.json has {path} = {value!r}; a number from 0 to 1 belongs there.")
    return value


class Shapes:
    """Sizes of the tensors of all parts; a missing tensor is a TasteError instead of a KeyError."""

    def __init__(self, parts: dict[str, Tensors]):
        self.parts = parts

    def __call__(self, part: str, name: str) -> tuple[int, ...]:
        try:
            return tuple(self.parts[part][name].shape)
        except KeyError:
            raise TasteError(f"the checkpoint lacks the tensor {PREFIXES[part]}{name}; copy all its files.") from None

    def count(self, part: str, start: str) -> int:
        """How many numbered children a module list has, whose names begin with `start` and a number."""
        return len({n.removeprefix(start).split(".")[0] for n in self.parts.get(part, {}) if n.startswith(start)})


def taste_config(parts: dict[str, Tensors], settings: dict) -> TasteConfig:
    """Configuration of a tokenizer. parts: from `released_keys.to_ours`, flow and vocoder may be missing; then they
    have the paper's sizes. settings: config.json, {} when there is none. Raises TasteError for missing tensors."""
    shapes = Shapes(parts)
    decoder = unit_decoder_config(shapes, settings)
    flow = FlowConfig(n_units=decoder.n_units, d_speaker=decoder.d_speaker)
    return TasteConfig(
        name="released",
        encoder=encoder_config(shapes, settings),
        aggregator=aggregator_config(shapes),
        rvq=rvq_config(shapes, settings),
        unit_decoder=decoder,
        flow=flow_config(shapes) if "flow" in parts else flow,
        vocoder=vocoder_config(shapes) if "vocoder" in parts else VocoderConfig(),
    )


def encoder_config(shapes: Shapes, settings: dict) -> EncoderConfig:
    d_model, n_mels, _ = shapes("encoder", "encoder.conv1.weight")
    return EncoderConfig(
        n_mels=n_mels,
        d_model=d_model,
        n_layers=shapes.count("encoder", "encoder.layers."),
        n_heads=d_model // HEAD_WIDTH,
        d_ff=shapes("encoder", "encoder.layers.0.fc1.weight")[0],
        n_positions=shapes("encoder", "encoder.embed_positions.weight")[0],
        shallow_layer=setting(settings, f"{TOWER}.target_hidden_layer", EncoderConfig().shallow_layer),
    )


def aggregator_config(shapes: Shapes) -> AggregatorConfig:
    vocab_size, d_model = shapes("aggregator", "embed_tokens.weight")
    return AggregatorConfig(
        vocab_size=vocab_size,
        d_model=d_model,
        n_layers=shapes.count("aggregator", "layers."),
        n_heads=d_model // HEAD_WIDTH,
        d_ff=shapes("aggregator", "layers.0.fc1.weight")[0],
        n_positions=shapes("aggregator", "embed_positions.weight")[0],
    )


def rvq_config(shapes: Shapes, settings: dict) -> RVQConfig:
    codebook_dim, d_model = shapes("quantizer", "project_in.weight")
    return RVQConfig(
        d_model=d_model,
        codebook_dim=codebook_dim,
        n_quantizers=shapes.count("quantizer", "layers."),
        codebook_size=shapes("quantizer", "layers.0.embed")[0],
        decay=_share(settings, f"{RVQ}.decay", 0.99),
        kmeans_iters=setting(settings, f"{RVQ}.kmeans_iters", 100),
        quantizer_dropout=setting(settings, f"{RVQ}.quantize_dropout", True),
    )


def unit_decoder_config(shapes: Shapes, settings: dict) -> UnitDecoderConfig:
    part, section = "unit_decoder", "speech_decoder_config"
    vocab_size, d_text = shapes(part, "text_embedding.weight")
    n_units, d_model = shapes(part, "speech_embedding.weight")
    d_audio, d_taste = shapes(part, "audio_embed_affine_layer.weight")
    return UnitDecoderConfig(
        vocab_size=vocab_size,
        n_units=n_units,
        d_text=d_text,
        d_taste=d_taste,
        d_audio=d_audio,
        d_speaker=shapes(part, "spk_embed_affine_layer.weight")[1],
        d_model=d_model,
        n_heads=shapes(part, "llm.encoders.0.self_attn.pos_bias_u")[0],
        d_ff=shapes(part, "llm.encoders.0.feed_forward.w_1.weight")[0],
        n_text_layers=shapes.count(part, "text_encoder.encoders."),
        n_audio_layers=shapes.count(part, "audio_token_encoder.encoders."),
        n_layers=shapes.count(part, "llm.encoders."),
        dropout=_share(settings, f"{section}.llm__dropout_rate", 0.1),
        position_dropout=_share(settings, f"{section}.llm__positional_dropout_rate", 0.1),
        label_smoothing=_share(settings, f"{section}.lsm_weight", 0.0),
    )


def flow_config(shapes: Shapes) -> FlowConfig:
    n_units, d_model = shapes("flow", "input_embedding.weight")
    n_mels, channels, _ = shapes("flow", "decoder.estimator.final_proj.weight")
    return FlowConfig(
        n_units=n_units,
        n_mels=n_mels,
        d_speaker=shapes("flow", "spk_embed_affine_layer.weight")[1],
        d_model=d_model,
        n_heads=shapes("flow", "encoder.encoders.0.self_attn.pos_bias_u")[0],
        d_ff=shapes("flow", "encoder.encoders.0.feed_forward.w_1.weight")[0],
        n_layers=shapes.count("flow", "encoder.encoders."),
        channels=channels,
        n_unet_heads=shapes("flow", "decoder.estimator.mid_blocks.0.1.0.attn1.to_q.weight")[0] // HEAD_WIDTH,
        head_dim=HEAD_WIDTH,
        n_blocks=shapes.count("flow", "decoder.estimator.mid_blocks.0.1."),
        n_mid_stages=shapes.count("flow", "decoder.estimator.mid_blocks."),
    )


def vocoder_config(shapes: Shapes) -> VocoderConfig:
    return VocoderConfig(
        n_mels=shapes("vocoder", "conv_pre.parametrizations.weight.original1")[1],
        channels=shapes("vocoder", "conv_pre.bias")[0],
        f0_channels=shapes("vocoder", "f0_predictor.classifier.weight")[1],
    )


def taslm_config(parts: dict[str, Tensors], settings: dict) -> TaslmConfig:
    """Configuration of a joint language model. parts: language model and quantizer, from `released_keys.to_ours`.

    Raises TasteError for missing tensors, and for an output head or rotary table that we cannot compute.
    """
    shapes, section = Shapes(parts), "spoken_lm_config"
    head = setting(settings, f"{section}.out_llm_module", "continue_latent_linear_last")
    if head not in HEADS:
        raise TasteError(f"the output head {head!r:.80} is not supported; the original can run {', '.join(HEADS)}.")
    weights = setting(settings, f"{section}.loss_weights", "0.5-0.5")
    try:
        text_weight, taste_weight, *_ = map(float, weights.split("-"))
    except ValueError as error:
        raise TasteError(
            f"config.json has loss_weights = {weights!r:.80}; two numbers belong there: '0.5-0.5'."
        ) from error
    llm, table = _llama(shapes, settings), parts["taslm"][f"{LLM}model.embed_tokens.weight"]
    return TaslmConfig(
        name="released",
        llm=llm,
        rvq=rvq_config(shapes, settings),
        sos_id=setting(settings, f"{section}.sos_id", 128000),
        delay=setting(settings, f"{section}.delay", 3),
        delay_level=setting(settings, f"{section}.delay_level", "word"),
        head=HEADS[head],
        lora_r=shapes("taslm", f"{LLM}model.layers.0.self_attn.q_proj.lora_A.default.weight")[0],
        lora_alpha=setting(settings, f"{LORA}.lora_alpha", 128),
        lora_dropout=_share(settings, f"{LORA}.lora_dropout", 0.05),
        text_weight=text_weight,
        taste_weight=taste_weight,
        latent_adds_std=setting(settings, f"{OWN}.latent_adds_std", True),
        bfloat16=str(table.dtype) == "torch.bfloat16",
        round_rope=setting(settings, f"{OWN}.round_rope", True),  # the original trained with the rounded table
    )


def _llama(shapes: Shapes, settings: dict) -> LlamaSizes:
    """A key that is missing means the default of the class that wrote the file."""
    text = "text_config"
    layer = f"{LLM}model.layers.0."
    vocab_size, d_model = shapes("taslm", f"{LLM}model.embed_tokens.weight")
    n_heads = setting(settings, f"{text}.num_attention_heads", 32)
    queries, keys = (shapes("taslm", f"{layer}self_attn.{name}_proj.base_layer.weight")[0] for name in "qk")
    if n_heads < 1 or queries % n_heads:
        raise TasteError(
            f"config.json has {n_heads} attention heads, which do not share {queries} rows; copy it again."
        )
    rope = setting(settings, f"{text}.rope_parameters", {}) or setting(settings, f"{text}.rope_scaling", {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3") or (kind == "llama3" and any(rope.get(k) != v for k, v in ROPE.items())):
        raise TasteError(f"the rotary table of the language model is stretched in an unknown way ({rope!r:.99}).")
    return LlamaSizes(
        vocab_size=vocab_size,
        d_model=d_model,
        n_layers=shapes.count("taslm", f"{LLM}model.layers."),
        n_heads=n_heads,
        n_kv_heads=keys * n_heads // queries,
        head_dim=queries // n_heads,
        d_ff=shapes("taslm", f"{layer}mlp.up_proj.base_layer.weight")[0],
        n_positions=setting(settings, f"{text}.max_position_embeddings", 2048),
        norm_eps=setting(settings, f"{text}.rms_norm_eps", 1e-6),
        rope_theta=setting(rope, "rope_theta", setting(settings, f"{text}.rope_theta", 10_000.0)),
        llama3_rope=kind == "llama3",
    )
