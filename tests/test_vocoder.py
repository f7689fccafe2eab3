"""The HiFT generator: source signal, shapes, randomness, iSTFT round trip, and equality with the original."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from taste_min import parity_decoder
from taste_min.config import VocoderConfig, mini, tiny
from taste_min.errors import TasteError
from taste_min.golden import load_golden
from taste_min.vocoder import HarmonicSource, ResBlock, Snake, Vocoder, rename_original

CONFIG = tiny().vocoder


@pytest.fixture
def model():
    torch.manual_seed(1)
    return Vocoder(CONFIG).eval()


def source(f0: torch.Tensor, noise: float = 0.0, phase: torch.Tensor | None = None) -> torch.Tensor:
    """The nine components before they are mixed: (9, S)."""
    module = HarmonicSource(CONFIG)
    seen = []
    module.l_linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    torch.manual_seed(0)
    n = f0.shape[1] * CONFIG.hop
    module(f0, torch.zeros(1, 9, 1) if phase is None else phase, noise * torch.randn(1, 9, n))
    return seen[0][0].T


def test_voiced_source_is_a_sine_per_harmonic():
    waves = source(torch.full((1, 20), 441.0))  # 50 samples per period
    t = torch.arange(1, waves.shape[1] + 1)
    for h in range(9):
        expected = 0.1 * torch.sin(2 * math.pi * t * (h + 1) / 50)
        torch.testing.assert_close(waves[h], expected, atol=2e-3, rtol=0)
    assert (waves[0] - 0.1 * torch.sin(2 * math.pi * t / 51)).abs().max() > 0.05


def test_unvoiced_source_is_noise_only():
    assert source(torch.zeros(1, 20)).abs().max() == 0
    assert source(torch.full((1, 200), 9.9), noise=1.0).std() == pytest.approx(0.1 / 3, rel=0.02)
    voiced = source(torch.full((1, 200), 441.0), noise=1.0) - source(torch.full((1, 200), 441.0))
    assert voiced.std() == pytest.approx(0.003, rel=0.02)


def test_only_the_overtones_get_a_phase():
    f0 = torch.full((1, 4), 200.0)
    moved = (source(f0, phase=torch.ones(1, 9, 1)) - source(f0)).abs().amax(dim=1) > 1e-3
    assert moved.tolist() == [False] + [True] * 8


def test_snake_and_resblock():
    snake, x = Snake(3), torch.randn(2, 3, 5)
    snake.alpha.data = torch.tensor([0.5, 1.0, 2.0])
    for c, alpha in enumerate((0.5, 1.0, 2.0)):
        torch.testing.assert_close(snake(x)[:, c], x[:, c] + torch.sin(alpha * x[:, c]) ** 2 / alpha)
    block = ResBlock(3, 7, (1, 3, 5))
    assert block(x).shape == x.shape
    reach = torch.zeros(1, 3, 201)
    for conv in (*block.convs1, *block.convs2):
        nn.init.ones_(conv.bias)
    impulse = reach.clone()
    impulse[:, :, 100] = 1
    changed = (block(impulse) - block(reach)).abs().sum(dim=(0, 1)) > 0
    assert changed.nonzero().min() == 100 - 3 * (1 + 3 + 5 + 1 + 1 + 1)  # every dilated and plain convolution


@pytest.mark.parametrize("n_frames", [2, 7])
def test_256_samples_per_frame(model, n_frames):
    speech = model(torch.randn(3, 80, n_frames))
    assert speech.wav.shape == (3, 256 * n_frames) and speech.f0.shape == (3, n_frames)
    assert speech.wav.abs().max() <= 0.99 and (speech.f0 >= 0).all()


def test_other_upsampling_works():
    config = replace(
        CONFIG, upsample_rates=(8, 4, 2), upsample_kernels=(16, 8, 4), source_kernels=(7, 7, 11), channels=64
    )
    assert config.hop == 256
    assert Vocoder(config)(torch.randn(1, 80, 5)).wav.shape == (1, 1280)
    with pytest.raises(TasteError, match="same length"):
        VocoderConfig(upsample_rates=(8, 4, 2))


def test_inverse_stft_undoes_the_stft(model):
    wav = torch.randn(2, 512)
    torch.testing.assert_close(model._istft(model._stft(wav)), wav, atol=1e-5, rtol=0)


def test_randomness_is_passed_in_or_seeded(model):
    mel = torch.randn(1, 80, 6)
    model.f0_predictor.classifier.bias.data[:] = 200.0  # voiced, so that the phase is heard

    def draw(seed):
        return model(mel, generator=torch.Generator().manual_seed(seed)).wav

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    generator = torch.Generator().manual_seed(0)
    phase = (2 * torch.rand(1, 9, 1, generator=generator) - 1) * math.pi
    noise = torch.randn(1, 9, 6 * 256, generator=generator)
    assert torch.equal(model(mel, phase=phase, noise=noise).wav, draw(0))


def test_given_f0_replaces_the_predicted_one(model):
    mel, phase, noise = torch.randn(1, 80, 6), torch.zeros(1, 9, 1), torch.zeros(1, 9, 1536)
    predicted = model(mel, phase=phase, noise=noise)
    same = model(mel, f0=predicted.f0, phase=phase, noise=noise)
    higher = model(mel, f0=predicted.f0 + 300, phase=phase, noise=noise)
    torch.testing.assert_close(same.wav, predicted.wav)
    torch.testing.assert_close(higher.f0, predicted.f0)
    assert (higher.wav - predicted.wav).abs().max() > 1e-4


def test_waveform_trains_everything_but_f0(model):
    speech = model(torch.randn(1, 80, 4))
    speech.wav.square().sum().backward(retain_graph=True)
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith("f0_predictor"), name
    speech.f0.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_loud_output_is_clipped_with_a_finite_gradient(model):
    model.conv_post.bias.data[:9] = 200.0  # exp(200) overflows float32
    speech = model(torch.randn(1, 80, 4))
    assert speech.wav.isfinite().all() and speech.wav.abs().max().item() == pytest.approx(0.99)
    speech.wav.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_runs_under_bfloat16_autocast(model):
    mel, phase, noise = torch.randn(1, 80, 6), torch.zeros(1, 9, 1), torch.zeros(1, 9, 1536)
    full = model(mel, phase=phase, noise=noise).wav
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(mel, phase=phase, noise=noise).wav
    assert half.dtype == torch.float32 and (half - full).abs().max() < 0.1


# --- the original


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_old_weight_normalisation_is_translated():
    old = torch.nn.utils.weight_norm(nn.ConvTranspose1d(4, 2, 4))  # norm over all but the input channels
    old.weight_g.data *= 2
    new = torch.nn.utils.parametrizations.weight_norm(nn.ConvTranspose1d(4, 2, 4))
    new.load_state_dict(rename_original(old.state_dict()))
    x = torch.randn(1, 4, 5)
    torch.testing.assert_close(new(x), old(x))


def test_golden_tensors(parity_dir):
    golden = load_golden(parity_dir / "hift.safetensors")
    rows = parity_decoder.golden_hift(golden)
    assert {r.output for r in rows} == set(golden.outputs)
    assert [r for r in rows if not r.ok] == []
    golden.weights["resblocks.5.activations2.2.alpha"] += 0.5
    wrong = {r.output: r.ok for r in parity_decoder.golden_hift(golden)}
    assert wrong["f0"] and not wrong["wav"]


def test_mini_size():
    with torch.device("meta"):
        model = Vocoder(mini().vocoder)
    assert 1e6 < sum(parameter.numel() for parameter in model.parameters()) < 6e6
