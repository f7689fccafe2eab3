"""Presets fit together, and neighbours of different sizes are refused."""

from dataclasses import replace

import pytest

from taste_min.config import PRESETS, RVQConfig, TasteConfig, tiny
from taste_min.errors import TasteError


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_consistent(name):
    config = PRESETS[name]()
    assert isinstance(config, TasteConfig) and config.name == name
    assert config.vocoder.hop == config.flow.hop == 256


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("unit_decoder", {"d_taste": 33}),
        ("unit_decoder", {"vocab_size": 99}),
        ("unit_decoder", {"n_units": 65}),
        ("unit_decoder", {"d_speaker": 13}),
        ("flow", {"n_mels": 40}),
        ("flow", {"hop": 128}),
        ("vocoder", {"sample_rate": 24000}),
        ("vocoder", {"istft_hop": 2}),
    ],
)
def test_neighbours_must_fit(part, change):
    config = tiny()
    with pytest.raises(TasteError, match="must be equal"):
        replace(config, **{part: replace(getattr(config, part), **change)})


def test_widths_of_the_tower_must_agree():
    with pytest.raises(TasteError, match="same d_model"):
        replace(tiny(), rvq=RVQConfig())
