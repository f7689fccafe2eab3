"""Small valid files of every kind that the package reads; fuzz_inputs.py spoils them."""

import functools
import io
import json
import os
import pickle
import struct
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch
from safetensors.torch import save

from taste_min.config import paper
from taste_min.corpus import COLUMNS
from taste_min.released import empty
from taste_min.released_config import LLM


def tone(seconds: float, rate: int = 16_000) -> np.ndarray:
    """A sine of 220 Hz: (samples,) float32."""
    return (0.3 * np.sin(2 * np.pi * 220 * np.arange(int(seconds * rate)) / rate)).astype("float32")


def recordings() -> list[bytes]:
    """Small valid sound files: every format that the package names, one and two channels, several rates."""
    files = []
    for rate, form, subtype, channels in (
        (16_000, "WAV", "PCM_16", 1),
        (16_000, "WAV", "FLOAT", 1),
        (22_050, "WAV", "PCM_U8", 2),
        (48_000, "WAVEX", "PCM_24", 2),
        (16_000, "FLAC", "PCM_16", 1),
        (44_100, "FLAC", "PCM_16", 2),
        (16_000, "OGG", "VORBIS", 1),
        (16_000, "MP3", "MPEG_LAYER_III", 1),
    ):
        file, wav = io.BytesIO(), tone(0.1, rate)
        soundfile.write(file, np.stack([wav] * channels, axis=1), rate, format=form, subtype=subtype)
        files.append(file.getvalue())
    return files


TRAP = Path(tempfile.gettempdir()) / "taste-min-fuzz-trap"  # made by a pickle whose code was run


class Mine:
    """Unpickled by a careless reader, it makes a folder: code of a stranger was run."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def pickles(trap: Path) -> list[bytes]:
    """State dicts in both formats of torch, plain pickles, and the same with a `Mine` inside."""
    good, files = {"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.int64)}, []
    run = dict.fromkeys(("identity", "step", "objective", "optimizers", "ema"), 1)
    for content in (good, {**good, "c": Mine(trap)}, Mine(trap), [1, 2], {"model_state": good}, good | run):
        files.append(pickle.dumps(content))
        for zipped in (True, False):
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=zipped)
            files.append(file.getvalue())
    return files


def whisper_variables(d: int = 2, vocab_size: int = 51864) -> dict[str, torch.Tensor]:
    """Every variable of a CTranslate2 Whisper with one layer on each side, as float16 zeros."""
    shapes = {"encoder/conv1": (d, 5, 3), "encoder/conv2": (d, d, 3)}
    norms = ["encoder/layer_norm", "decoder/layer_norm"]
    for side, attentions in (("encoder", ("self_attention",)), ("decoder", ("self_attention", "attention"))):
        for attention in attentions:
            norms.append(f"{side}/layer_0/{attention}/layer_norm")
            stacked = (3 * d, d) if attention == "self_attention" else (d, 2 * d, d)
            for i, rows in enumerate(stacked):
                shapes[f"{side}/layer_0/{attention}/linear_{i}"] = (rows, d)
        norms.append(f"{side}/layer_0/ffn/layer_norm")
        shapes |= {f"{side}/layer_0/ffn/linear_0": (3, d), f"{side}/layer_0/ffn/linear_1": (d, 3)}
    variables = {f"{name}/{part}": torch.zeros(d) for name in norms for part in ("gamma", "beta")}
    variables |= {f"{name}/weight": torch.zeros(shape) for name, shape in shapes.items()}
    variables |= {f"{name}/bias": torch.zeros(shape[0]) for name, shape in shapes.items()}
    variables |= {f"{side}/position_encodings/encodings": torch.zeros(4, d) for side in ("encoder", "decoder")}
    variables = {name: value.half() for name, value in variables.items()}
    variables["decoder/embeddings/weight"] = torch.zeros(vocab_size, d, dtype=torch.float16)
    numbers = {"activation": 3, "alibi": 0, "pre_norm": 1, "scale_embeddings": 0, "start_from_zero_embedding": 0}
    numbers = {f"decoder/{name}": value for name, value in numbers.items()}
    numbers |= {"encoder/num_heads": 1, "decoder/num_heads": 1}
    return variables | {name: torch.tensor(value, dtype=torch.int8) for name, value in numbers.items()}


def ct2_bytes(variables: dict[str, torch.Tensor]) -> bytes:
    """A model.bin in the layout that taste_min/ct2.py describes. A type that it does not know gets the number 9."""

    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    codes = {torch.float32: 0, torch.int8: 1, torch.int16: 2, torch.int32: 3, torch.float16: 4}
    file = struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        data = value.flatten().view(torch.uint8).numpy().tobytes() if value.numel() else b""
        file += string(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        file += struct.pack("<BI", codes.get(value.dtype, 9), len(data)) + data
    return file + struct.pack("<I", 1) + string("decoder/projection/weight") + string("decoder/embeddings/weight")


@functools.cache
def parts() -> dict[str, dict[str, torch.Tensor]]:
    """Tensors without memory at the released sizes; of the language model only those that say a size."""
    names = ("encoder", "aggregator", "quantizer", "unit_decoder")
    layer, meta = f"{LLM}model.layers.0.", functools.partial(torch.empty, device="meta", dtype=torch.bfloat16)
    taslm = {
        f"{LLM}model.embed_tokens.weight": meta(128256, 2048),
        f"{layer}mlp.up_proj.base_layer.weight": meta(8192, 1),
    }
    for name, rows in (("q_proj.base_layer", 2048), ("k_proj.base_layer", 512), ("q_proj.lora_A.default", 64)):
        taslm[f"{layer}self_attn.{name}.weight"] = meta(rows, 1)
    return {name: empty(name, paper()).state_dict() for name in names} | {"taslm": taslm}


WORDS = [{"text": "Good", "start": 0.1, "end": 0.4}, {"text": "morning.", "start": 0.4, "end": 0.9}]

META = {"text": "Good morning.", "words": WORDS, "n_text_tokens": 4, "seconds": 1.1}

TOKENS = {
    "codes": torch.zeros(2, 4, dtype=torch.int64),
    "embeddings": torch.ones(2, 8),
    "speaker_embedding": torch.ones(256) / 16,
}

UNITS = {"mean": torch.zeros(39), "projection": torch.ones(39, 4), "centroids": torch.ones(16, 4)}

UTTERANCE = {
    "id": "u1",
    "audio": "case.wav",
    "text": "Good morning.",
    "speaker": "joe",
    "rate": "1.0",
    "style": "plain",
    "split": "train",
    "seconds": "1.1",
    "words": [["Good", 0.1, 0.4], ["morning.", 0.4, 0.9]],
    "prosody": {"rate": [1.0, 1.0], "pitch": [1.0, 1.0], "gain": [0.0, 0.0]},
}

assert tuple(UTTERANCE) == COLUMNS

EDIT = {
    "audio": "case.wav",
    "text": "Good morning.",
    "id": "u1",
    "split": "test",
    "donor": "case.wav",
    "swapped": "0-1",
}

SETTINGS = {
    "model_type": "taste",
    "audio_tower_config": {
        "kwargs_for_joint_encoder_segmenter": {"target_hidden_layer": 6, "skip_prefix_idx": 4},
        "kwargs_for_quantizer": {"quantizer_class": "rvq", "decay": 0.99, "kmeans_iters": 10, "quantize_dropout": True},
    },
    "speech_decoder_config": {"llm__dropout_rate": 0.1, "lsm_weight": 0.0, "fuse_encoded_audio_text_kwargs": {}},
    "spoken_lm_config": {"loss_weights": "0.5-0.5", "sos_id": 128000, "delay": 3, "delay_level": "word"},
    "text_config": {"num_attention_heads": 32, "rope_scaling": {"rope_type": "default"}, "rms_norm_eps": 1e-5},
    "asr_config": {"_name_or_path": "."},
    "taste_min": {"latent_adds_std": True},
}

ROWS = [{"id": "u", "split": "dev", "text": "Hi", "seconds": 1.0}]

INDEX = {"weight_map": {"a": "model.safetensors", "b": "model.safetensors"}}

WHISPER = {"suppress_ids": [1, 2], "suppress_ids_begin": [220], "alignment_heads": [[0, 1]]}

TOKENIZER = {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}}

GOLDEN = {"w.weight": torch.ones(2, 2), "i.x": torch.ones(2), "o.y": torch.ones(2)}

WANTED = ("one/model.bin", "one/LICENSE")
QUESTIONS = [{"url": "u", "utterance": "who?", "targetValue": '(list (description "A B") (description C))'}]
QUESTIONS += [{"question": "why?", "answers": ["so", "not"]}]
SPOKEN_QUESTIONS = [{"Questions": f"who {i}?", "Answer": "A; B", "audio_filename": f"{i}.mp3"} for i in range(2)]


def table(*rows: dict) -> bytes:
    cells = [[v if isinstance(v, str) else json.dumps(v) for v in row.values()] for row in rows]
    return "".join("\t".join(line) + "\n" for line in [list(rows[0]), *cells]).encode()


COMMAND_FILES = {
    "case.wav": recordings()[0],
    "bad.wav": b"no sound",
    "manifest.tsv": table(EDIT | {"speaker": "a", "seconds": "0.1"}),
    "case.safetensors": save(TOKENS, {"taste_tokens": json.dumps(META)}),
    "case.pt": pickles(TRAP)[1],
    "result.json": b'{"run": {"judge": "a", "system": "b"}, "utterances": [{"id": "u1"}]}',
}
