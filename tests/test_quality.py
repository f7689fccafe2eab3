"""ViSQOL and DistillMOS on sounds that are better and worse, and without their packages."""

import sys

import pytest
import torch

from taste_min import quality
from taste_min.audio import SAMPLE_RATE
from taste_min.clips import SAMPLES
from taste_min.errors import TasteError
from taste_min.recordings import read_recordings


@pytest.fixture(scope="module")
def wavs():
    wav = read_recordings(str(SAMPLES / "manifest.tsv"), limit=1)[0].load()[: 3 * SAMPLE_RATE]
    noise = torch.randn(len(wav), generator=torch.Generator().manual_seed(0))
    return wav, wav + 0.003 * noise, wav + 0.1 * noise


def test_visqol_falls_with_noise(wavs):
    pytest.importorskip("visqol", reason="visqol-python is not installed")
    same, slight, heavy = (quality.visqol(wavs[0], wav) for wav in wavs)
    assert same == pytest.approx(5, abs=0.01) and 1 <= heavy < slight < same
    assert quality.visqol(wavs[0], 0.5 * wavs[0]) == pytest.approx(same, abs=0.05)  # loudness does not count


def test_distillmos_falls_with_noise_and_says_nothing(wavs, capsys):
    clean, _, heavy = (quality.distillmos(wav) for wav in wavs)
    assert 1 <= heavy < clean - 0.5 and clean <= 5
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("load", "module"), [(quality._visqol, "visqol"), (quality._distillmos, "distillmos")])
def test_a_missing_package_is_named(load, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TasteError, match=f"{module} needs .*pip install"):
        load.__wrapped__()
    assert module in quality.not_installed()
