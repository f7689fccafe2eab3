"""Speaker embeddings: GE2E properties, CAM++ through a small ONNX graph, and what happens to unusable input."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from taste_min.audio import kaldi_fbank
from taste_min.errors import TasteError
from taste_min.speaker import GE2E, CAMPPlus, load_speaker_encoder


@pytest.fixture
def ge2e():
    torch.manual_seed(0)
    return GE2E().eval()


@pytest.fixture
def projection():
    return np.random.default_rng(0).normal(size=(80, 192)).astype(np.float32)


@pytest.fixture
def graph(tmp_path, projection):
    """Mean of the squares over time, then a projection: (1, F, 80) -> (1, 192)."""
    nodes = [
        helper.make_node("Mul", ["feats", "feats"], ["squares"]),
        helper.make_node("ReduceMean", ["squares", "time"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["embedding"]),
    ]
    weights = {"time": np.array([1]), "weight": projection}
    return save_graph(tmp_path / "speaker.onnx", nodes, weights, ["feats"])


def save_graph(path, nodes, weights, inputs):
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "test",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, 80]) for name in inputs],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, 192])],
            [numpy_helper.from_array(value, name) for name, value in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    onnx.save(model, path)
    return path


def speech(seconds: float, seed: int = 0) -> torch.Tensor:
    """Noise with a slow loudness contour."""
    generator = torch.Generator().manual_seed(seed)
    n = int(16000 * seconds)
    return 0.1 * torch.randn(n, generator=generator) * (1 + torch.sin(torch.arange(n) / 900))


# --- GE2E


def test_mel_has_40_bands_every_10_ms_and_no_logarithm(ge2e):
    mel = ge2e.mel(speech(1.0))
    assert mel.shape == (101, 40) and (mel >= 0).all()
    torch.testing.assert_close(ge2e.mel(2 * speech(1.0)), 4 * mel)


def test_partials_cover_the_recording(ge2e):
    assert ge2e.partials(8000) == [0]  # shorter than one partial
    assert ge2e.partials(16000 * 3) == [0, 77, 154]
    for n in range(16000, 16000 * 5, 4321):
        starts = ge2e.partials(n)
        assert np.diff(starts).tolist() == [77] * (len(starts) - 1)
        left_over = n - (starts[-1] + 160) * 160
        assert left_over < 77 * 160
        assert len(starts) == 1 or n - starts[-1] * 160 >= 0.75 * 160 * 160


def test_embedding_has_length_one_and_ignores_low_volume(ge2e):
    wav = speech(2.5)
    vector = ge2e.speaker_embedding(wav)
    assert vector.shape == (256,) and (vector >= 0).all()
    assert vector.norm().item() == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(ge2e.speaker_embedding(wav * 0.1), ge2e.speaker_embedding(wav * 0.2), atol=1e-5, rtol=0)
    loud = wav * 8  # above the target: left as it is
    assert (ge2e.speaker_embedding(loud) - ge2e.speaker_embedding(loud * 2)).abs().max() > 1e-4


def test_several_recordings_are_averaged(ge2e):
    one, other = speech(2.0, seed=1), speech(2.0, seed=2)
    mean = ge2e.speaker_embedding(one) + ge2e.speaker_embedding(other)
    torch.testing.assert_close(ge2e.speaker_embedding(one, other), mean / mean.norm())


def test_foreign_weights_are_refused(tmp_path):
    torch.save({"model_state": {"other": torch.zeros(1)}}, tmp_path / "pretrained.pt")
    with pytest.raises(TasteError, match="GE2E"):
        GE2E.from_file(tmp_path / "pretrained.pt")


def test_loads_its_own_weights(tmp_path, ge2e):
    weights = {**ge2e.state_dict(), "similarity_weight": torch.ones(1), "similarity_bias": torch.ones(1)}
    torch.save({"model_state": weights}, tmp_path / "pretrained.pt")
    wav = speech(1.0)
    assert torch.equal(GE2E.from_file(tmp_path / "pretrained.pt").speaker_embedding(wav), ge2e.speaker_embedding(wav))


@pytest.mark.assets
def test_published_weights_tell_readers_apart():
    from taste_min.assets import fetch
    from taste_min.audio import read_audio

    encoder = load_speaker_encoder()
    clips = [read_audio(path, convert=True) for path in sorted(fetch("librivox").rglob("*.wav"))]
    vectors = torch.stack([encoder.speaker_embedding(clip) for clip in clips])
    same = (vectors @ vectors.T)[~torch.eye(len(clips), dtype=torch.bool)]
    slower = torch.stack([encoder.speaker_embedding(clip.repeat_interleave(2)) for clip in clips])  # an octave down
    assert same.min() > 0.75 > (vectors @ slower.T).max()


# --- CAM++


def test_graph_gets_filter_banks_without_their_mean(graph, projection):
    wav, other = speech(1.0), speech(0.5, seed=1)
    encoder = load_speaker_encoder(graph)
    assert isinstance(encoder, CAMPPlus)

    def expected(x):
        return kaldi_fbank(x).var(dim=0, correction=0) @ torch.from_numpy(projection)

    for wavs in ((wav,), (wav, other)):
        mean = sum(expected(x) for x in wavs)
        vector = encoder.speaker_embedding(*wavs)
        torch.testing.assert_close(vector, mean / mean.norm(), atol=1e-5, rtol=0)
    assert vector.shape == (encoder.dim,)


def test_missing_wrong_or_damaged_graphs(tmp_path, graph):
    with pytest.raises(TasteError, match="not a file"):
        CAMPPlus(tmp_path / "absent.onnx")
    (tmp_path / "damaged.onnx").write_bytes(b"not a graph")
    with pytest.raises(TasteError, match="not a readable ONNX graph"):
        CAMPPlus(tmp_path / "damaged.onnx")
    two = save_graph(
        tmp_path / "two.onnx",
        [helper.make_node("Add", ["a", "b"], ["embedding"])],
        {},
        ["a", "b"],
    )
    with pytest.raises(TasteError, match="2 inputs instead of 1"):
        CAMPPlus(two)


def test_unusable_audio_is_refused(ge2e, graph):
    for encoder in (ge2e, CAMPPlus(graph)):
        with pytest.raises(TasteError, match="silent"):
            encoder.speaker_embedding(torch.zeros(16000))
