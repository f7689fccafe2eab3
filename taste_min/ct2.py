"""Read Whisper weights from a CTranslate2 `model.bin` into transformers.

The package index holds Whisper in this format (see assets.json). Layout, little-endian: u32 version, string name of
the model, u32 revision, u32 count, then per variable its name, u8 rank, u32 dimensions, u8 dtype, u32 bytes, data; at
the end u32 count of aliases, each a pair of names. A string is a u16 length and as many bytes, the last one zero.
"""

import json
import math
import struct
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

from .errors import TasteError

_DTYPES = [np.dtype(code) for code in ("<f4", "<i1", "<i2", "<i4", "<f2")]
_MAX_RANK = 4
# What the converter states about the architecture; transformers' Whisper is exactly this.
_FIXED = {"activation": 3, "alibi": 0, "pre_norm": 1, "scale_embeddings": 0, "start_from_zero_embedding": 0}


class Tokens(NamedTuple):
    """Ids of the special tokens that generation needs."""

    end: int
    start: int
    previous: int  # <|startofprev|>
    no_timestamps: int
    english: int | None = None
    translate: int | None = None
    transcribe: int | None = None


_TOKENS = {  # by vocabulary size: English-only and multilingual models
    51864: Tokens(50256, 50257, 50360, 50362),
    51865: Tokens(50257, 50258, 50361, 50363, 50259, 50358, 50359),
}


class _Reader:
    """A cursor over the file that never reads past its end."""

    def __init__(self, path: Path):
        self.path, self.position = path, 0
        self.data = np.memmap(path, dtype=np.uint8, mode="r") if path.stat().st_size else np.zeros(0, dtype=np.uint8)

    def fail(self, reason: str) -> NoReturn:
        raise TasteError(f"{self.path} is not a complete CTranslate2 Whisper model ({reason}); fetch it again.")

    def take(self, n_bytes: int) -> np.ndarray:
        if n_bytes > len(self.data) - self.position:
            self.fail(f"it has {len(self.data)} bytes and needs {self.position + n_bytes} or more")
        self.position += n_bytes
        return self.data[self.position - n_bytes : self.position]

    def integer(self, code: str) -> int:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(code)).tobytes())[0]

    def string(self) -> str:
        return self.take(self.integer("H")).tobytes().rstrip(b"\0").decode("latin-1")


def read_model(path: str | Path) -> dict[str, np.ndarray]:
    """Read every variable of a model.bin, as views into the file: name -> array; aliases repeat their variable.

    Sizes in the file are checked against its length before anything is allocated. Raises TasteError where the file is
    missing, truncated, or not version 6 of a Whisper model.
    """
    path = Path(path)
    if not path.is_file():
        raise TasteError(f"There is no file {path}; run 'taste-min fetch' or name the folder of a Whisper model.bin.")
    reader = _Reader(path)
    header = (reader.integer("I"), reader.string(), reader.integer("I"))
    if header != (6, "WhisperSpec", 3):
        reader.fail(f"its header is {header!r:.80}")
    variables = {}
    for _ in range(reader.integer("I")):
        name, rank = reader.string(), reader.integer("B")
        if rank > _MAX_RANK or name in variables:
            reader.fail(f"variable {name!r:.80} has rank {rank} or appears twice")
        shape = tuple(reader.integer("I") for _ in range(rank))
        code, n_bytes = reader.integer("B"), reader.integer("I")
        if code >= len(_DTYPES) or 0 in shape or math.prod(shape) * _DTYPES[code].itemsize != n_bytes:
            reader.fail(f"variable {name!r:.80} of shape {shape} and type {code} cannot have {n_bytes} bytes")
        variables[name] = np.frombuffer(reader.take(n_bytes), dtype=_DTYPES[code]).reshape(shape)
    for _ in range(reader.integer("I")):
        alias, name = reader.string(), reader.string()
        if name not in variables or alias in variables:
            reader.fail(f"alias {alias!r:.80} of {name!r:.80}")
        variables[alias] = variables[name]
    if reader.position != len(reader.data):
        reader.fail(f"{len(reader.data) - reader.position} bytes are left over")
    return variables


class _Variables:
    """The variables of one model, taken one by one so that what nobody asked for is noticed."""

    def __init__(self, path: Path):
        self.path, self.left = path, read_model(path)

    def fail(self, reason: str) -> NoReturn:
        raise TasteError(f"Cannot convert {self.path}: {reason}; use a float16 or float32 conversion of Whisper.")

    def take(self, name: str, rank: int) -> torch.Tensor:
        if name not in self.left:
            self.fail(f"it lacks the variable '{name}'")
        array = self.left.pop(name)
        if array.ndim != rank or array.dtype.kind != "f":
            self.fail(f"'{name}' is {array.dtype} of shape {array.shape}")
        return torch.from_numpy(array.astype(np.float32))

    def number(self, name: str) -> int:
        if name not in self.left or self.left[name].ndim != 0 or self.left[name].dtype.kind != "i":
            self.fail(f"it lacks the number '{name}'")
        return int(self.left.pop(name))

    def count_layers(self, side: str) -> int:
        n = 0
        while f"{side}/layer_{n}/ffn/linear_0/weight" in self.left:
            n += 1
        return n


def load_whisper(folder: str | Path) -> WhisperForConditionalGeneration:
    """Load `folder`/model.bin (and the generation settings of config.json beside it), float32, in eval mode.

    Sizes are read from the weights; every weight of the model comes from the file and every variable of the file is
    used. Multilingual models are set to transcribe English. Raises TasteError where the file does not fit.
    """
    variables = _Variables(Path(folder) / "model.bin")
    heads = {side: variables.number(f"{side}/num_heads") for side in ("encoder", "decoder")}
    for name, value in _FIXED.items():
        if variables.number(f"decoder/{name}") != value:
            variables.fail(f"'decoder/{name}' is not {value}")
    layers = {side: variables.count_layers(side) for side in ("encoder", "decoder")}
    for name in ("alignment_heads", "alignment_layer"):  # of the converter's own aligner; config.json has the real list
        variables.left.pop(f"decoder/{name}", None)
    weights = _convert(variables, layers)
    if variables.left:
        variables.fail(f"the variable {next(iter(variables.left))!r:.80} is unknown")

    vocab_size, d_model = weights["proj_out.weight"].shape
    if vocab_size not in _TOKENS or any(n < 1 or d_model % n for n in heads.values()) or 0 in layers.values():
        variables.fail(f"{vocab_size} tokens, width {d_model}, layers {layers} and heads {heads} are not Whisper's")
    tokens = _TOKENS[vocab_size]
    special = {"bos_token_id": tokens.end, "eos_token_id": tokens.end, "pad_token_id": tokens.end}
    special["decoder_start_token_id"] = tokens.start
    config = WhisperConfig(
        vocab_size=vocab_size,
        d_model=d_model,
        num_mel_bins=weights["model.encoder.conv1.weight"].shape[1],
        max_source_positions=len(weights["model.encoder.embed_positions.weight"]),
        max_target_positions=len(weights["model.decoder.embed_positions.weight"]),
        encoder_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        encoder_attention_heads=heads["encoder"],
        decoder_attention_heads=heads["decoder"],
        encoder_ffn_dim=len(weights["model.encoder.layers.0.fc1.weight"]),
        decoder_ffn_dim=len(weights["model.decoder.layers.0.fc1.weight"]),
        **special,
    )
    with torch.device("meta"):  # shapes only: nothing is allocated for sizes that a file merely claims
        whisper = WhisperForConditionalGeneration(config)
    expected = {name: tensor.shape for name, tensor in whisper.state_dict().items()}
    for name in expected.keys() | weights.keys():
        if name not in expected or name not in weights or expected[name] != weights[name].shape:
            variables.fail(f"'{name}' does not have the shape that the other weights ask for")
    whisper.load_state_dict(weights, assign=True)
    whisper.tie_weights()
    whisper.generation_config = _generation_config(Path(folder) / "config.json", tokens, special, config)
    return whisper.eval()


def _convert(variables: _Variables, layers: dict[str, int]) -> dict[str, torch.Tensor]:
    """Rename the variables and take stacked projections apart: state dict of WhisperForConditionalGeneration."""
    weights = {}

    def norm(source: str, target: str) -> None:
        weights[f"{target}.weight"] = variables.take(f"{source}/gamma", 1)
        weights[f"{target}.bias"] = variables.take(f"{source}/beta", 1)

    def linear(source: str, *targets: str) -> None:
        weight, bias = variables.take(f"{source}/weight", 2), variables.take(f"{source}/bias", 1)
        if len(weight) % len(targets) or len(weight) != len(bias):
            variables.fail(f"'{source}' has {len(weight)} rows and {len(bias)} biases")
        parts = zip(targets, weight.chunk(len(targets)), bias.chunk(len(targets)), strict=True)  # (n D, D) -> n (D, D)
        for target, part, offset in parts:
            weights[f"{target}.weight"] = part.clone()
            if not target.endswith("k_proj"):
                weights[f"{target}.bias"] = offset.clone()
            elif offset.any():  # keys have no bias in Whisper; the converter writes zeros
                variables.fail(f"'{source}/bias' is not zero for the keys")

    for side, n_layers in layers.items():
        weights[f"model.{side}.embed_positions.weight"] = variables.take(f"{side}/position_encodings/encodings", 2)
        norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        for i in range(n_layers):
            source, target = f"{side}/layer_{i}", f"model.{side}.layers.{i}"
            attention = f"{target}.self_attn"
            norm(f"{source}/self_attention/layer_norm", f"{target}.self_attn_layer_norm")
            linear(f"{source}/self_attention/linear_0", *(f"{attention}.{x}_proj" for x in "qkv"))
            linear(f"{source}/self_attention/linear_1", f"{attention}.out_proj")
            if side == "decoder":
                attention = f"{target}.encoder_attn"
                norm(f"{source}/attention/layer_norm", f"{target}.encoder_attn_layer_norm")
                linear(f"{source}/attention/linear_0", f"{attention}.q_proj")
                linear(f"{source}/attention/linear_1", *(f"{attention}.{x}_proj" for x in "kv"))
                linear(f"{source}/attention/linear_2", f"{attention}.out_proj")
            norm(f"{source}/ffn/layer_norm", f"{target}.final_layer_norm")
            linear(f"{source}/ffn/linear_0", f"{target}.fc1")
            linear(f"{source}/ffn/linear_1", f"{target}.fc2")
    for conv in ("conv1", "conv2"):
        weights[f"model.encoder.{conv}.weight"] = variables.take(f"encoder/{conv}/weight", 3)
        weights[f"model.encoder.{conv}.bias"] = variables.take(f"encoder/{conv}/bias", 1)
    weights["model.decoder.embed_tokens.weight"] = variables.take("decoder/embeddings/weight", 2)
    weights["proj_out.weight"] = weights["model.decoder.embed_tokens.weight"]  # tied
    variables.left.pop("decoder/projection/weight", None)  # the alias that says so
    return weights


def _generation_config(path: Path, tokens: Tokens, special: dict[str, int], config: WhisperConfig) -> GenerationConfig:
    """Token ids that `generate` needs, and the suppressed tokens and alignment heads of the converter's config.json."""
    if not path.is_file():
        raise TasteError(f"There is no file {path}; it belongs beside model.bin.")
    try:
        extra = json.loads(path.read_text(encoding="utf-8"))
        listed = [extra[key] for key in ("suppress_ids", "suppress_ids_begin", "alignment_heads")]
        numbers = [number for part in (*listed[:2], *listed[2]) for number in part]
        if not all(isinstance(number, int) for number in numbers) or any(len(head) != 2 for head in listed[2]):
            raise ValueError("the lists hold token ids, and pairs of layer and head")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TasteError(f"{path} is not the config.json of a CTranslate2 Whisper model; fetch it again.") from error
    settings = {
        **dict(zip(("suppress_tokens", "begin_suppress_tokens", "alignment_heads"), listed, strict=True)),
        "no_timestamps_token_id": tokens.no_timestamps,
        "prev_sot_token_id": tokens.previous,
        "is_multilingual": tokens.english is not None,
        "max_length": config.max_target_positions,
    }
    if tokens.english is not None:
        settings |= {"lang_to_id": {"<|en|>": tokens.english}, "language": "<|en|>", "task": "transcribe"}
        settings |= {"task_to_id": {"transcribe": tokens.transcribe, "translate": tokens.translate}}
    return GenerationConfig(**special, **settings)
