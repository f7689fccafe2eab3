"""The S3 tokenizer through a small ONNX graph with the same inputs and outputs, and the units of the mini preset."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from taste_min.audio import log_mel
from taste_min.config import tiny
from taste_min.encoder import WhisperEncoder
from taste_min.errors import TasteError
from taste_min.s3 import S3Tokenizer
from taste_min.units import (
    N_SHAPE,
    PITCH_WEIGHT,
    SHAPE_WEIGHT,
    MiniUnits,
    WhisperStates,
    cepstra,
    kmeans,
    per_unit,
    projection,
    sound_directions,
    spectral_shape,
)


@pytest.fixture
def tokenizer(tmp_path):
    """Every second frame up to the given length; its unit is the loudest mel band: (1, 128, F) -> (1, F / 2)."""
    constants = {"start": np.array([0], np.int32), "axis": np.array([2], np.int32), "step": np.array([2], np.int32)}
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Slice", ["feats", "start", "length", "axis", "step"], ["half"]),
                helper.make_node("ArgMax", ["half"], ["band"], axis=1, keepdims=0),
                helper.make_node("Cast", ["band"], ["ids"], to=TensorProto.INT32),
            ],
            "test",
            [
                helper.make_tensor_value_info("feats", TensorProto.FLOAT, [1, 128, None]),
                helper.make_tensor_value_info("length", TensorProto.INT32, [1]),
            ],
            [helper.make_tensor_value_info("ids", TensorProto.INT32, [1, None])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    onnx.save(model, tmp_path / "units.onnx")
    return S3Tokenizer(tmp_path / "units.onnx")


def chirp(seconds: float) -> torch.Tensor:
    t = torch.arange(int(16000 * seconds)) / 16000
    return 0.5 * torch.sin(2 * torch.pi * (200 + 2500 * t / seconds) * t)


def test_units_come_from_the_unpadded_log_mel(tokenizer):
    wav = chirp(1.3)
    units = tokenizer.encode(wav)
    assert units.dtype == torch.int64 and units.shape == (65,)  # 50 per second
    assert torch.equal(units, log_mel(wav, 128, pad=False)[:, ::2].argmax(dim=0))
    assert units[-5:].float().mean() > units[:5].float().mean() + 20  # the chirp rises


def test_long_audio_is_read_in_windows_of_30_seconds(tokenizer):
    wav = chirp(61.0)
    units = tokenizer.encode(wav)
    assert units.shape == (61 * 50,)
    assert torch.equal(units[1500:3000], tokenizer.encode(wav[480_000:960_000]))
    assert tokenizer.encode(wav[: 480_000 + 100]).shape == (1500,)  # a rest shorter than a unit is dropped


def test_unusable_audio_is_refused(tokenizer):
    with pytest.raises(TasteError, match="silent"):
        tokenizer.encode(torch.zeros(16000))


@pytest.fixture(scope="module")
def whisper_states():
    torch.manual_seed(0)
    encoder = WhisperEncoder(tiny().encoder).encoder
    encoder.embed_positions.weight.zero_()  # without training they would drown the sound
    return WhisperStates(encoder, layer=2)


def tones(seed: int) -> torch.Tensor:
    """Sixteen steady tones of 60 ms in a random order."""
    pitch = torch.randperm(16, generator=torch.Generator().manual_seed(seed)).repeat_interleave(960) * 300 + 200
    return 0.5 * torch.sin(2 * torch.pi * (pitch / 16000).cumsum(0))


@pytest.mark.parametrize("name", ["whisper", "cepstra"])
def test_mini_units_come_back_for_the_same_sound_and_are_fifty_per_second(name, whisper_states):
    features = {"whisper": whisper_states, "cepstra": cepstra}[name]
    units = MiniUnits.fit([tones(seed) for seed in range(8)], features, n_units=32)
    assert units.n_units == 32
    wav = tones(9)[:-100]
    ids = units.encode(wav)
    assert ids.dtype == torch.int64 and ids.shape == (len(wav) // 320,)
    assert torch.equal(units.encode(0.999 * wav), ids)
    assert (units.encode(tones(10))[: len(ids)] == ids).float().mean() < 0.6  # another order of the tones
    shuffled = torch.stack([units.encode(tones(seed))[::3][:15] for seed in range(20, 24)])
    assert len(shuffled.unique()) > 8


def tone_names(seed: int, n_units: int) -> list[str]:
    """Which of the sixteen tones every unit of `tones` belongs to; the first two are not known."""
    order = torch.randperm(16, generator=torch.Generator().manual_seed(seed)).repeat_interleave(3)
    return ["", "", *map(str, order[2:n_units].tolist())]


@pytest.mark.parametrize("sounds", [None, tone_names])
def test_mini_units_survive_saving(tmp_path, whisper_states, sounds):
    units = MiniUnits.fit([tones(seed) for seed in range(8)], whisper_states, sounds, n_units=32)
    assert units.projection.shape == (39, 39)  # 32 hidden states, pitch and six cepstra
    units.save(tmp_path / "units.safetensors")
    loaded = MiniUnits.load(tmp_path / "units.safetensors", whisper_states)
    assert torch.equal(loaded.encode(tones(9)), units.encode(tones(9)))
    assert (tmp_path / "units.safetensors").stat().st_size < 2 * (1 + 39 + 32) * 39 + 500  # float16
    other = MiniUnits.fit([tones(seed) for seed in range(8)], whisper_states, n_units=32)
    assert torch.equal(other.projection, units.projection) is (sounds is None)


def test_other_files_are_not_taken_for_units(tmp_path):
    (tmp_path / "other").write_bytes(b"nothing")
    old = {"mean": torch.zeros(39), "std": torch.ones(39), "centroids": torch.randn(5, 39)}
    save_file(old, str(tmp_path / "old"), metadata={"layer": "-1"})
    for name in ("other", "old"):
        with pytest.raises(TasteError, match="train units"):
            MiniUnits.load(tmp_path / name)


@pytest.fixture(scope="module")
def sounds():
    """Frames (n, 20) of four sounds that differ along one direction and vary more along another, and their names."""
    generator = torch.Generator().manual_seed(0)
    names = torch.randint(4, (4000,), generator=generator)
    x = torch.randn(4000, 20, generator=generator)
    x[:, 0] += 3 * names
    x[:, 1] *= 6
    turn = torch.linalg.qr(torch.randn(20, 20, generator=generator)).Q
    return x @ turn, [f"sound {name}" for name in names.tolist()]


def ratio(values: torch.Tensor, labels: list[str]) -> tuple[float, float]:
    """Variance of the means of the labels over the variance within one, and the latter. values: (n,)."""
    groups = [values[torch.tensor([label == name for label in labels])] for name in sorted(set(labels))]
    within = torch.stack([group.var() for group in groups]).mean()
    return float(torch.stack([group.mean() for group in groups]).var() / within), float(within)


def test_sound_directions_tell_sounds_apart_and_the_largest_variance_does_not(sounds):
    x, labels = sounds
    found, within = ratio((x @ sound_directions(x, labels, 1))[:, 0], labels)
    principal = torch.linalg.eigh(torch.cov(x.T)).eigenvectors[:, -1]
    assert found > 10 > 0.1 > ratio(x @ principal, labels)[0]
    assert 0.6 < within < 1.1
    several = sound_directions(x, labels, 3)
    torch.testing.assert_close(several[:, -1:], sound_directions(x, labels, 1))  # the best one is the last


def test_projection_scales_columns_and_with_labels_turns_the_states(sounds):
    states, labels = sounds
    x = torch.cat((states, torch.randn(4000, 1 + N_SHAPE) * torch.arange(1.0, 8)), dim=1)  # (n, 27)
    plain = projection(x, None)
    torch.testing.assert_close((x @ plain).std(dim=0), torch.ones(27))
    assert torch.equal(plain, plain.diag().diag())
    unknown = torch.arange(4000) % 10 == 0
    heard = ["" if lost else label for lost, label in zip(unknown.tolist(), labels, strict=True)]
    x[unknown, 1] += 100  # frames without a label do not move the directions
    turned = projection(x, heard)
    assert turned.shape == (27, 27) and not turned[:20, 20:].any() and not turned[20:, :20].any()
    known = [label for label in heard if label]
    torch.testing.assert_close(turned[:20, :20], sound_directions(x[~unknown, :20], known, 20))
    weights = torch.tensor([PITCH_WEIGHT] + N_SHAPE * [SHAPE_WEIGHT])
    torch.testing.assert_close((x @ turned)[:, 20:].std(dim=0), weights)


def test_spectral_shape_counts_ripples_and_units_take_two_frames():
    bands, size = torch.arange(80) + 0.5, torch.tensor([0.0, 1.0, 3.0])  # of three frames
    for k in range(4):
        shape = spectral_shape(torch.cos(torch.pi * k * bands / 80)[:, None] * size + 5, 4)
        moved = shape.abs().amax(dim=1) > 1e-3
        assert moved.tolist() == [i == k for i in range(4)]
        torch.testing.assert_close(shape[k] / shape[k].abs().max(), (size - size.mean()) / (3 - size.mean()))
    assert per_unit(torch.arange(14.0).reshape(2, 7), 3).tolist() == [[0.5, 7.5], [2.5, 9.5], [4.5, 11.5]]


def test_kmeans_finds_separate_clouds_and_fills_empty_clusters():
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    x = (centres[:, None] + 0.1 * torch.randn(3, 50, 2, generator=generator)).flatten(0, 1)
    found = kmeans(x, 3, 30, generator)
    assert torch.cdist(centres, found).amin(dim=1).max() < 0.2
    twins = torch.cat([torch.zeros(50, 2), torch.ones(50, 2), x])
    assert len(kmeans(twins, 5, 60, generator)[:, 0].unique()) >= 4
    with pytest.raises(TasteError, match="too few"):
        MiniUnits.fit([tones(0)], cepstra, n_units=512)


def test_cepstra_ignore_loudness_and_follow_change():
    wav = tones(3)
    assert cepstra(wav).shape == (len(wav) // 320, 39)
    torch.testing.assert_close(cepstra(0.5 * wav), cepstra(wav), atol=0.05, rtol=0)
    steady = torch.sin(torch.arange(16000) * 0.3)
    assert cepstra(steady)[5:-5, 13:].abs().mean() < 0.5 * cepstra(wav)[5:-5, 13:].abs().mean()
