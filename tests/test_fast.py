"""Faster layers give the same, 8 bits nearly the same, and fewer steps of second order lie nearer to the solution."""

import copy

import pytest
import torch
from fake_taste import tiny_taste, tokens_of
from torch import nn

from taste_min.errors import TasteError
from taste_min.fast import ChannelsLastConv, FoldedTranspose, Int8Linear, convert, fast
from taste_min.flow_matching import FlowMatching
from taste_min.unit_sampling import Sampling


@pytest.mark.parametrize("shape", [{}, {"dilation": 3, "padding": 3}, {"stride": 2, "padding": 1}, {"bias": False}])
def test_channels_last_is_the_same_convolution(shape):
    torch.manual_seed(0)
    conv, x = nn.Conv1d(6, 10, 3, **shape), torch.randn(2, 6, 21)
    torch.testing.assert_close(ChannelsLastConv(conv)(x), conv(x), atol=1e-5, rtol=0)


def test_weight_normalisation_is_folded_and_the_model_it_came_from_is_untouched():
    torch.manual_seed(0)
    taste = tiny_taste()
    mel, phase, noise = torch.randn(1, 80, 9), torch.rand(1, 9, 1), torch.randn(1, 9, 9 * 256)
    with torch.no_grad():
        before = taste.vocoder(mel, phase=phase, noise=noise).wav
        folded = copy.deepcopy(taste.vocoder)
        convert(folded)
        torch.testing.assert_close(folded(mel, phase=phase, noise=noise).wav, before, atol=1e-5, rtol=0)
        assert torch.equal(taste.vocoder(mel, phase=phase, noise=noise).wav, before)
    kinds = {type(module) for module in folded.modules()}
    assert {ChannelsLastConv, FoldedTranspose} <= kinds and not any("Parametrized" in kind.__name__ for kind in kinds)


def test_8_bits_are_close_and_not_the_same():
    torch.manual_seed(0)
    linear, x = nn.Linear(256, 128), torch.randn(3, 256)
    exact, near = linear(x), Int8Linear(linear)(x)
    assert 0 < (near - exact).norm() / exact.norm() < 0.03
    coarse = nn.Linear(256, 128)
    coarse.weight.data = (linear.weight * 7 / linear.weight.abs().max()).round() * linear.weight.abs().max() / 7
    coarse.bias = linear.bias
    assert (coarse(x) - exact).norm() / exact.norm() > 0.05  # what 4 bits give
    with pytest.raises(TasteError, match="bfloat16 on a GPU"):
        Int8Linear(nn.Linear(4, 4, device="meta"))


def test_a_fast_model_speaks_as_before():
    taste, tokens = tiny_taste(), tokens_of("you like some tea")
    sampling, steps = Sampling(greedy=True, min_units=10, max_units=10), taste.flow.config.n_timesteps
    before = taste.decode(tokens, sampling=sampling)
    after = fast(copy.deepcopy(taste)).decode(tokens, sampling=sampling)
    assert torch.equal(after.units, before.units)
    torch.testing.assert_close(after.mel, before.mel, atol=1e-4, rtol=0)
    small = fast(copy.deepcopy(taste), int8=True, steps=6)
    assert small.flow.config.n_timesteps == 6 and small.flow.config.second_order
    assert small.decode(tokens, sampling=sampling).mel.shape[0] == before.mel.shape[0]
    assert taste.flow.config.n_timesteps == steps != 6


class Curved(nn.Module):
    """A velocity whose paths are known: x' = -3 x."""

    def forward(self, x, *_):
        return -3 * x


def test_second_order_needs_fewer_steps():
    taste = tiny_taste()
    matching = FlowMatching(taste.config.flow)
    matching.estimator = Curved()
    noise, nothing = torch.ones(1, 80, 4), torch.zeros(1, 80)
    exact = torch.exp(torch.tensor(-3.0))

    def error(steps, second_order):
        result = matching.sample(noise, None, 0 * noise, nothing, steps, 0.0, second_order=second_order)
        return float((result - exact).abs().max())

    assert error(10, False) > 2 * error(10, True)
    assert error(20, True) < error(10, True) / 2.8 and error(20, False) > error(10, False) / 2.8  # order 2, order 1
    assert error(1, True) == error(1, False)  # there is no step before the first one
