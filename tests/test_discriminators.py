"""Adversaries and losses of the vocoder: known values, gradients, and that real can be told from fake."""

import pytest
import torch

from taste_min.config import DiscriminatorConfig
from taste_min.discriminators import (
    Discriminators,
    Judgement,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
    mel_loss,
)

SMALL = DiscriminatorConfig(periods=(2, 3), period_channels=(4, 8), n_ffts=(256,), spectral_channels=4)


def judgement(score: float, feature: float) -> Judgement:
    return Judgement([torch.full((2, 3), score)] * 2, [[torch.full((2, 4), feature, requires_grad=True)] * 3] * 2)


def test_least_squares_values():
    real, fake = judgement(1.0, 0.5), judgement(0.0, 0.2)
    assert discriminator_loss(real, fake) == 0
    assert discriminator_loss(fake, real) == 2 * (1 + 1)
    assert adversarial_loss(fake) == 2 and adversarial_loss(real) == 0


def test_feature_matching_moves_the_generator_only():
    real, fake = judgement(1.0, 0.5), judgement(0.0, 0.2)
    loss = feature_matching_loss(real, fake)
    assert loss.item() == pytest.approx(6 * 0.3)
    loss.backward()
    assert real.features[0][0].grad is None and fake.features[0][0].grad is not None


def test_every_discriminator_scores_any_length():
    torch.manual_seed(0)
    model = Discriminators(DiscriminatorConfig())
    for n_samples in (4096, 4111):
        judged = model(torch.randn(2, n_samples))
        assert len(judged.scores) == len(judged.features) == 8
        assert all(score.shape[0] == 2 and score.ndim == 2 for score in judged.scores)


def test_they_learn_to_tell_a_tone_from_noise():
    torch.manual_seed(0)
    model = Discriminators(SMALL)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    t = torch.arange(2048) / 22050
    losses = []
    for _ in range(25):
        pitch = 100 + 200 * torch.rand(4, 1)
        real, fake = torch.sin(2 * torch.pi * pitch * t), torch.randn(4, 2048) * 0.7
        loss = discriminator_loss(model(real), model(fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 2.5 and losses[-1] < 0.5 * losses[0]


def test_spectral_distance():
    torch.manual_seed(0)
    wav = torch.randn(2, 8192)
    assert mel_loss(wav, wav) == 0
    near, far = mel_loss(wav * 0.9, wav), mel_loss(wav * 0.1, wav)
    assert 0 < near < far
    # the phase is not compared: a shift by a few samples costs less than other noise
    assert mel_loss(wav.roll(7, dims=1), wav) < 0.5 * mel_loss(torch.randn(2, 8192), wav)
    estimate = torch.randn(2, 8192, requires_grad=True)
    mel_loss(estimate, wav).backward()
    assert estimate.grad.isfinite().all() and estimate.grad.abs().sum() > 0


def test_mel_loss_is_the_log_ratio_of_the_magnitudes():
    wav = torch.randn(1, 8192)
    assert mel_loss(wav * 0.5, wav).item() == pytest.approx(0.6931, abs=1e-3)
