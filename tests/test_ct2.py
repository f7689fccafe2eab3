"""CTranslate2 reader: round trip of a random model through a writer, forged and truncated files, the real tiny.en."""

import json
import math
import re
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch
from tokenizers import Tokenizer
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from taste_min import assets
from taste_min.ct2 import load_whisper, read_model
from taste_min.errors import TasteError

CODES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}


def string(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def variable(name: str, array: np.ndarray) -> bytes:
    head = string(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
    return head + struct.pack("<BI", CODES[array.dtype.name], array.nbytes) + array.tobytes()


def model_bytes(variables: dict[str, np.ndarray], aliases: dict[str, str]) -> bytes:
    head = struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<II", 3, len(variables))
    tail = struct.pack("<I", len(aliases)) + b"".join(string(a) + string(b) for a, b in aliases.items())
    return head + b"".join(variable(*item) for item in variables.items()) + tail


def to_ct2(whisper: WhisperForConditionalGeneration, dtype: str) -> dict[str, np.ndarray]:
    """The inverse of the conversion under test, written from the format's description."""
    state = {name: tensor.numpy() for name, tensor in whisper.state_dict().items()}
    out = {}

    def norm(target, source):
        out[f"{target}/gamma"], out[f"{target}/beta"] = state[f"{source}.weight"], state[f"{source}.bias"]

    def linear(target, source, parts=("",)):
        weights = [state[f"{source}{part}.weight"] for part in parts]
        out[f"{target}/weight"] = np.concatenate(weights)
        biases = [state.get(f"{source}{p}.bias", np.zeros(len(w))) for p, w in zip(parts, weights, strict=True)]
        out[f"{target}/bias"] = np.concatenate(biases)

    for side in ("encoder", "decoder"):
        out[f"{side}/position_encodings/encodings"] = state[f"model.{side}.embed_positions.weight"]
        norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        for i in range(getattr(whisper.config, f"{side}_layers")):
            a, b = f"{side}/layer_{i}", f"model.{side}.layers.{i}"
            norm(f"{a}/self_attention/layer_norm", f"{b}.self_attn_layer_norm")
            linear(f"{a}/self_attention/linear_0", f"{b}.self_attn.", ("q_proj", "k_proj", "v_proj"))
            linear(f"{a}/self_attention/linear_1", f"{b}.self_attn.out_proj")
            if side == "decoder":
                norm(f"{a}/attention/layer_norm", f"{b}.encoder_attn_layer_norm")
                linear(f"{a}/attention/linear_0", f"{b}.encoder_attn.q_proj")
                linear(f"{a}/attention/linear_1", f"{b}.encoder_attn.", ("k_proj", "v_proj"))
                linear(f"{a}/attention/linear_2", f"{b}.encoder_attn.out_proj")
            norm(f"{a}/ffn/layer_norm", f"{b}.final_layer_norm")
            linear(f"{a}/ffn/linear_0", f"{b}.fc1")
            linear(f"{a}/ffn/linear_1", f"{b}.fc2")
    for conv in ("conv1", "conv2"):
        linear(f"encoder/{conv}", f"model.encoder.{conv}")
    out["decoder/embeddings/weight"] = state["model.decoder.embed_tokens.weight"]
    out = {name: array.astype(dtype) for name, array in out.items()}
    for name, value in (("activation", 3), ("pre_norm", 1), ("alibi", 0), ("scale_embeddings", 0)):
        out[f"decoder/{name}"] = np.array(value, dtype="int8")
    out["decoder/start_from_zero_embedding"] = np.array(0, dtype="int8")
    for name, value in (("encoder/num_heads", 2), ("decoder/num_heads", 4), ("decoder/alignment_layer", -1)):
        out[name] = np.array(value, dtype="int16")
    return out


ALIAS = {"decoder/projection/weight": "decoder/embeddings/weight"}
CONFIG = {"suppress_ids": [1, 2], "suppress_ids_begin": [220], "alignment_heads": [[0, 1]]}


def random_whisper(vocab_size: int = 51864) -> WhisperForConditionalGeneration:
    """Random weights everywhere, biases and norms too, so that a mix-up cannot hide behind zeros and ones."""
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=vocab_size,
        d_model=8,
        num_mel_bins=5,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=4,
        encoder_ffn_dim=12,
        decoder_ffn_dim=20,
        max_source_positions=10,
        max_target_positions=7,
        pad_token_id=0,
    )
    whisper = WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in whisper.parameters():
            parameter.copy_(torch.randn_like(parameter).half())  # exact in float16
    return whisper


@pytest.fixture(scope="module")
def whisper():
    return random_whisper()


@pytest.fixture(scope="module")
def variables(whisper):
    return to_ct2(whisper, "float32")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def save(folder, variables, aliases=ALIAS):
    (folder / "model.bin").write_bytes(model_bytes(variables, aliases))
    return folder


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_round_trip(whisper, folder, dtype):
    loaded = load_whisper(save(folder, to_ct2(whisper, dtype)))
    expected, got = whisper.state_dict(), loaded.state_dict()
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert not loaded.training and {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert loaded.proj_out.weight is loaded.model.decoder.embed_tokens.weight
    mel, ids = torch.randn(1, 5, 20), torch.tensor([[3, 1, 4]])  # (B, mel bins, F), (B, N)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(mel, decoder_input_ids=ids).logits, whisper(mel, decoder_input_ids=ids).logits
        )


def test_round_trip_notices_swapped_keys_and_values(whisper, variables, folder):
    name = "decoder/layer_0/attention/linear_1/weight"
    loaded = load_whisper(save(folder, {**variables, name: np.roll(variables[name], 8, axis=0)}))
    key = "model.decoder.layers.0.encoder_attn.v_proj.weight"
    assert not torch.equal(loaded.state_dict()[key], whisper.state_dict()[key])


def test_token_ids(variables, folder):
    english = load_whisper(save(folder, variables))
    settings = english.generation_config
    assert (settings.decoder_start_token_id, settings.eos_token_id, settings.pad_token_id) == (50257, 50256, 50256)
    assert (settings.no_timestamps_token_id, settings.is_multilingual) == (50362, False)
    assert (settings.suppress_tokens, settings.alignment_heads) == (CONFIG["suppress_ids"], [[0, 1]])
    assert (english.config.decoder_start_token_id, english.config.eos_token_id) == (50257, 50256)

    multilingual = load_whisper(save(folder, to_ct2(random_whisper(51865), "float32")))
    settings = multilingual.generation_config
    assert (settings.decoder_start_token_id, settings.eos_token_id, settings.pad_token_id) == (50258, 50257, 50257)
    assert (settings.lang_to_id["<|en|>"], settings.task_to_id["transcribe"]) == (50259, 50359)
    assert (settings.no_timestamps_token_id, settings.is_multilingual) == (50363, True)
    start = multilingual.generate(torch.randn(1, 5, 20), max_new_tokens=1, return_dict_in_generate=True).sequences
    assert start[0, :4].tolist() == [50258, 50259, 50359, 50363]


SMALL = {"a": np.arange(6, dtype="float16").reshape(2, 3), "b/c": np.array(7, dtype="int32")}


def test_every_truncation_is_refused(tmp_path):
    whole, path = model_bytes(SMALL, {"d": "a"}), tmp_path / "model.bin"
    path.write_bytes(whole)
    got = read_model(path)
    assert got.keys() == {"a", "b/c", "d"}
    np.testing.assert_array_equal(got["d"], SMALL["a"])
    assert got["b/c"] == 7
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(TasteError, match="fetch it again"):
            read_model(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(TasteError, match="left over"):
        read_model(path)
    with pytest.raises(TasteError, match="no file"):
        read_model(tmp_path / "absent.bin")


HEAD = struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<I", 3)
MANY = 2**32 - 1
FORGED = {
    "version": struct.pack("<I", 5) + string("WhisperSpec") + struct.pack("<III", 3, 0, 0),
    "model": struct.pack("<I", 6) + string("TransformerSpec") + struct.pack("<III", 3, 0, 0),
    "count": HEAD + struct.pack("<I", MANY) + variable("a", SMALL["a"]),
    "name": HEAD + struct.pack("<IH", 1, 65535) + b"a",
    "rank": HEAD + struct.pack("<I", 1) + string("a") + struct.pack("<B255IBI", 255, *[1] * 255, 0, 4) + b"\0" * 8,
    "shape": HEAD + struct.pack("<I", 1) + string("a") + struct.pack("<B4IBI", 4, *[MANY] * 4, 0, 8) + b"\0" * 12,
    "bytes": HEAD + struct.pack("<I", 1) + string("a") + struct.pack("<BIBI", 1, MANY // 4, 0, MANY // 4 * 4),
    "type": HEAD + struct.pack("<I", 1) + string("a") + struct.pack("<BIBI", 1, 1, 9, 4) + b"\0" * 8,
    "twice": HEAD + struct.pack("<I", 2) + variable("a", SMALL["a"]) * 2 + struct.pack("<I", 0),
    "alias": model_bytes(SMALL, {"d": "absent"}),
    "alias of nothing, many times": HEAD + struct.pack("<II", 0, MANY),
    "text": b"<html>not found</html>",
}


@pytest.mark.parametrize("what", FORGED)
def test_forged_headers_allocate_nothing(tmp_path, what):
    path = tmp_path / "model.bin"
    path.write_bytes(FORGED[what])
    tracemalloc.start()
    try:
        with pytest.raises(TasteError, match="fetch it again") as error:
            read_model(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)


def _without(variables, name):
    return {key: array for key, array in variables.items() if key != name}


BIAS = "encoder/layer_1/self_attention/linear_0/bias"
UNFIT = {
    "missing": (lambda v: _without(v, "encoder/conv2/bias"), "lacks the variable 'encoder/conv2/bias'"),
    "missing number": (lambda v: _without(v, "encoder/num_heads"), "lacks the number"),
    "unknown": (lambda v: v | {"decoder/extra": np.zeros(1, "float32")}, "'decoder/extra' is unknown"),
    "quantised": (lambda v: v | {"decoder/embeddings/weight": np.zeros((51864, 8), "int8")}, "is int8"),
    "key bias": (lambda v: v | {BIAS: np.ones(24, "float32")}, "not zero for the keys"),
    "activation": (lambda v: v | {"decoder/activation": np.array(0, "int8")}, "'decoder/activation' is not 3"),
    "vocabulary": (lambda v: v | {"decoder/embeddings/weight": np.zeros((9, 8), "float32")}, "9 tokens"),
    "heads": (lambda v: v | {"decoder/num_heads": np.array(3, "int16")}, "heads"),
    "no heads": (lambda v: v | {"encoder/num_heads": np.array(0, "int16")}, "heads"),
    "shape": (lambda v: v | {"encoder/conv2/bias": np.zeros(9, "float32")}, "'model.encoder.conv2.bias'"),
    "rows": (lambda v: v | {BIAS: np.zeros(25, "float32")}, "24 rows and 25 biases"),
    "no layers": (lambda v: {k: a for k, a in v.items() if "decoder/layer_0" not in k}, "are not Whisper's"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_models_that_do_not_fit_are_refused(variables, folder, what):
    change, message = UNFIT[what]
    with pytest.raises(TasteError, match=re.escape(message)):
        load_whisper(save(folder, change(variables)))


def test_sizes_that_are_only_claimed_are_not_allocated(variables, folder):
    """An empty table may claim any number of rows; building the model at that size would take 137 GB."""
    claimed = {**variables, "encoder/position_encodings/encodings": np.zeros((2**32 - 1, 0), "float32")}
    with pytest.raises(TasteError, match="cannot have 0 bytes"):
        load_whisper(save(folder, claimed))


def test_config_json_is_needed(variables, tmp_path):
    save(tmp_path, variables)
    with pytest.raises(TasteError, match="belongs beside model.bin"):
        load_whisper(tmp_path)
    for text in ("{", "[]", "{}"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(TasteError, match="not the config.json"):
            load_whisper(tmp_path)


@pytest.mark.assets
def test_tiny_en_transcribes_a_clip():
    folder, clips = assets.fetch("whisper-tiny-en", progress=False), assets.fetch("librivox", progress=False)
    clip = clips / "sense_and_sensibility_01_austen_64kb-0930.wav"
    samples, rate = soundfile.read(clip)
    whisper = load_whisper(folder)
    assert math.isclose(sum(p.numel() for p in whisper.parameters()), 37.76e6, rel_tol=1e-3)
    mel = WhisperFeatureExtractor()(samples, sampling_rate=rate, return_tensors="pt").input_features  # (1, 80, F)
    ids = whisper.generate(mel)[0].tolist()
    text = Tokenizer.from_file(str(folder / "tokenizer.json")).decode(ids)
    assert re.sub(r"[^a-z ]", "", text.lower()).strip() == clip.with_suffix(".txt").read_text().strip()
