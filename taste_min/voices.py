"""The two synthesiser networks of the mini corpus, opened at two points before they run (extra `corpus`).

Piper's voice `joe` and Kokoro-82M with five voices, both as ONNX graphs. The scalar speed becomes one value per input
token and the durations become an output; Kokoro's F0 curve is multiplied with a factor per token; Piper's random
numbers become inputs, so that a seed fixes the speech.

Axes: S samples, T input tokens of a network, F its frames.
"""

import functools
import json
from pathlib import Path

import numpy as np

from . import assets
from .errors import TasteError
from .prosody import Prosody

SAMPLE_RATE = 22_050  # Hz, of everything the voices return
KOKORO = {
    "alpha": "jf_alpha",
    "gon": "jf_gongitsune",
    "nezumi": "jf_nezumi",
    "tebukuro": "jf_tebukuro",
    "kumo": "jm_kumo",
}
VOICES = ("joe", *KOKORO)
KOKORO_RATE, KOKORO_FRAME = 24_000, 600  # Hz, samples per duration frame
PIPER_FRAME = 256  # samples per duration frame, at 22.05 kHz
PIPER_MAX_FRAMES = 3000  # longest utterance of the Piper voice, 35 s
BASE_SPEED = {
    "joe": 0.9,
    "alpha": 0.78,
    "gon": 0.9,
    "nezumi": 0.9,
    "tebukuro": 0.9,
    "kumo": 0.9,
}  # close to 2.8 words/s
LATE = {"kokoro": 0.08, "piper": 0.045}  # seconds by which the networks' word boundaries trail the sound (median)
# Kokoro's English was trained on symbols of its own for diphthongs and affricates; espeak writes them in full.
KOKORO_SYMBOLS = {
    "eɪ": "A",
    "aɪ": "I",
    "oʊ": "O",
    "aʊ": "W",
    "ɔɪ": "Y",
    "dʒ": "ʤ",
    "tʃ": "ʧ",
    "ɚ": "əɹ",
    "ɐ": "ə",
    "r": "ɹ",
}


@functools.cache
def libraries():
    try:
        import onnx
        import onnxruntime
        from piper.phonemize_espeak import EspeakPhonemizer
    except ImportError as error:
        raise TasteError("building the corpus needs more packages; run `pip install 'taste_min[corpus]'`.") from error
    onnxruntime.set_default_logger_severity(3)
    return onnx, onnxruntime, EspeakPhonemizer()


def _runner(model, onnxruntime):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _rewire(graph, old: str, new: str) -> None:
    """Every node that reads `old` reads `new`."""
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


class Kokoro:
    """Kokoro-82M (int8). Frames of 25 ms."""

    def __init__(self):
        onnx, onnxruntime, _ = libraries()
        folder = Path(assets.fetch("kokoro"))
        model = onnx.load(folder / "model.onnx")
        graph, make, float32 = model.graph, onnx.helper, onnx.TensorProto.FLOAT
        speed = next(value for value in graph.input if value.name == "speed")
        speed.type.tensor_type.shape.dim[0].dim_param = "sequence_length"
        graph.input.append(make.make_tensor_value_info("pitch", float32, [1, "sequence_length"]))
        graph.output.append(make.make_tensor_value_info("/encoder/Clip_output_0", float32, [1, "sequence_length"]))
        # F0 (1, 2F) * pitch (1, T) @ alignment (T, F), each frame twice
        f0, alignment = "/encoder/Squeeze_output_0", "/encoder/Cast_4_output_0"
        _rewire(graph, f0, "f0_scaled")
        shapes = {"pairs": [1, -1, 2], "column": [1, -1, 1], "row": [1, -1]}
        graph.initializer.extend(onnx.numpy_helper.from_array(np.array(s), f"shape_{n}") for n, s in shapes.items())
        nodes = [
            make.make_node("Reshape", [f0, "shape_pairs"], ["f0_pairs"]),
            make.make_node("MatMul", ["pitch", alignment], ["pitch_frames"]),
            make.make_node("Reshape", ["pitch_frames", "shape_column"], ["pitch_column"]),
            make.make_node("Mul", ["f0_pairs", "pitch_column"], ["f0_pairs_scaled"]),
            make.make_node("Reshape", ["f0_pairs_scaled", "shape_row"], ["f0_scaled"]),
        ]
        at = 1 + max(i for i, node in enumerate(graph.node) if {f0, alignment} & set(node.output))
        for offset, node in enumerate(nodes):
            graph.node.insert(at + offset, node)
        self.network = _runner(model, onnxruntime)
        self.vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))["vocab"]
        self.styles = dict(np.load(folder / "voices_ja.npz"))

    def tokens(self, symbols: list[str], word_of: list[int]) -> tuple[list[int], list[int]]:
        """Token ids and the word of each, from espeak's symbols: pairs that have a symbol of their own are joined."""
        ids, words, at = [], [], 0
        while at < len(symbols):
            pair = "".join(symbols[at : at + 2])
            taken = 2 if pair in KOKORO_SYMBOLS else 1
            for symbol in KOKORO_SYMBOLS.get(pair[:taken], pair[:taken]):
                if symbol in self.vocab and symbol != "ː":
                    ids.append(self.vocab[symbol])
                    words.append(word_of[at])
            at += taken
        return ids, words

    def say(
        self, symbols, word_of, prosody: Prosody, voice: str, seed: int
    ) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """(wav (S,) at 22.05 kHz, samples per token (T,), word per token). The network draws no random numbers."""
        ids, words = self.tokens(symbols, word_of)
        words = [words[0], *words, words[-1]]
        style = self.styles[KOKORO[voice]][len(ids) - 1]  # (1, 256)
        rate = BASE_SPEED[voice] * np.array([prosody.rate[w] for w in words], dtype=np.float32)
        pitch = np.array([[prosody.pitch[w] for w in words]], dtype=np.float32)
        audio, frames = self.network.run(
            ["audio", "/encoder/Clip_output_0"],
            {"tokens": np.array([[0, *ids, 0]]), "style": style.astype(np.float32), "speed": rate, "pitch": pitch},
        )
        import torch
        from torchaudio.functional import resample

        wav = resample(torch.from_numpy(audio.ravel().astype(np.float32)), KOKORO_RATE, SAMPLE_RATE).numpy()
        return wav, frames.ravel() * (KOKORO_FRAME * SAMPLE_RATE / KOKORO_RATE), words


class Piper:
    """The Piper voice `joe`. Frames of 256 samples at 22.05 kHz."""

    def __init__(self):
        onnx, onnxruntime, _ = libraries()
        folder = Path(assets.fetch("piper-joe"))
        config = next(folder.glob("*.onnx.json"))
        self.ids = json.loads(config.read_text(encoding="utf-8"))["phoneme_id_map"]
        model = onnx.load(config.with_suffix(""))
        graph, make, float32 = model.graph, onnx.helper, onnx.TensorProto.FLOAT
        inputs = {
            "/Gather_1_output_0": ("length_scales", [1, 1, "phonemes"]),
            "/dp/RandomNormalLike_output_0": ("duration_noise", [1, 2, "phonemes"]),
            "/RandomNormalLike_output_0": ("noise", [1, 192, "frames"]),
        }
        for old, (name, shape) in inputs.items():
            graph.input.append(make.make_tensor_value_info(name, float32, shape))
            if name != "noise":
                _rewire(graph, old, name)
        # the number of frames is known only inside: cut the noise to it
        _rewire(graph, "/RandomNormalLike_output_0", "noise_cut")
        like = "/Transpose_3_output_0"  # (1, 192, F)
        at = next(i for i, node in enumerate(graph.node) if "/RandomNormalLike_output_0" in node.output)
        names = {"two": 2, "three": 3, "zero": 0}
        graph.initializer.extend(onnx.numpy_helper.from_array(np.array([v]), f"axis_{n}") for n, v in names.items())
        for offset, node in enumerate(
            [
                make.make_node("Shape", [like], ["frames_shape"]),
                make.make_node("Slice", ["frames_shape", "axis_two", "axis_three"], ["frames_count"]),
                make.make_node("Slice", ["noise", "axis_zero", "frames_count", "axis_two"], ["noise_cut"]),
            ]
        ):
            graph.node.insert(at + offset, node)
        graph.output.append(make.make_tensor_value_info("/Ceil_output_0", float32, [1, 1, "phonemes"]))
        self.network = _runner(model, onnxruntime)

    def tokens(self, symbols: list[str], word_of: list[int]) -> tuple[list[int], list[int]]:
        """Token ids and the word of each; every symbol is followed by the padding symbol."""
        ids, words = [*self.ids["^"], *self.ids["_"]], [word_of[0]] * 2
        for symbol, word in zip(symbols, word_of, strict=True):
            new = [*self.ids.get(symbol, []), *self.ids["_"]] if symbol in self.ids else []
            ids += new
            words += [word] * len(new)
        return ids + self.ids["$"], words + [word_of[-1]]

    def say(
        self, symbols, word_of, prosody: Prosody, voice: str, seed: int
    ) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """(wav (S,) at 22.05 kHz, samples per token (T,), word per token). Pitch is left to the random numbers."""
        ids, words = self.tokens(symbols, word_of)
        rng = np.random.default_rng(seed)
        scales = np.array([[[1 / (BASE_SPEED[voice] * prosody.rate[w]) for w in words]]], dtype=np.float32)
        audio, frames = self.network.run(
            ["output", "/Ceil_output_0"],
            {
                "input": np.array([ids]),
                "input_lengths": np.array([len(ids)]),
                "scales": np.array([rng.uniform(0.55, 0.85), 1.0, rng.uniform(0.6, 1.0)], dtype=np.float32),
                "length_scales": scales,
                "duration_noise": rng.standard_normal((1, 2, len(ids)), dtype=np.float32),
                "noise": rng.standard_normal((1, 192, PIPER_MAX_FRAMES), dtype=np.float32),
            },
        )
        return audio.ravel().astype(np.float32), frames.ravel() * PIPER_FRAME, words


@functools.cache
def network(kind: str) -> Kokoro | Piper:
    return {"kokoro": Kokoro, "piper": Piper}[kind]()
