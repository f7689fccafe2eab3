"""The frozen encoder: its two taps against transformers' own hidden states."""

import pytest
import torch
from torch import nn

from taste_min.config import EncoderConfig, tiny
from taste_min.encoder import WhisperEncoder
from taste_min.errors import TasteError

CONFIG = tiny().encoder


@pytest.fixture
def model():
    torch.manual_seed(0)
    return WhisperEncoder(CONFIG)


def test_taps_are_the_hidden_states_of_the_library(model):
    mel = torch.randn(2, 8, 100)
    output = model(mel, all_layers=True)
    assert output.last.shape == output.shallow.shape == (2, 50, 32)
    assert len(output.hidden_states) == CONFIG.n_layers + 1
    theirs = model.encoder(mel, output_hidden_states=True)
    torch.testing.assert_close(output.last, theirs.last_hidden_state)
    for layer in range(CONFIG.n_layers):
        torch.testing.assert_close(output.hidden_states[layer], theirs.hidden_states[layer])
    torch.testing.assert_close(output.shallow, output.hidden_states[2])
    torch.testing.assert_close(model.encoder.layer_norm(output.hidden_states[-1]), output.last)
    assert not torch.allclose(output.shallow, output.hidden_states[3])  # the neighbour would be noticed


def test_short_input_is_padded_and_long_input_refused(model):
    mel = torch.randn(1, 8, 60)
    padded = nn.functional.pad(mel, (0, 40))
    torch.testing.assert_close(model(mel).last, model(padded).last)
    with pytest.raises(TasteError, match="at most 1 s"):
        model(torch.randn(1, 8, 101))


def test_frozen_and_always_in_eval_mode(model):
    nn.Sequential(model).train()
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    mel = torch.randn(1, 8, 100, requires_grad=True)
    assert not model(mel).last.requires_grad


def test_impossible_tap_is_refused():
    with pytest.raises(TasteError, match="0..4"):
        EncoderConfig(n_layers=4, shallow_layer=5)
