"""Units to mel: frame counts, the probability path, guidance, padding, and equality with the original."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from taste_min import parity_decoder
from taste_min.config import FlowConfig, mini, paper, tiny
from taste_min.errors import TasteError
from taste_min.flow import Flow, length_mask, stretch
from taste_min.flow_matching import FlowMatching, cosine_time
from taste_min.golden import load_golden
from taste_min.phones import SYMBOLS
from taste_min.unet import MaskedGroupNorm, UNet

CONFIG = tiny().flow


@pytest.fixture
def model():
    torch.manual_seed(1)
    return Flow(CONFIG).eval()


@pytest.fixture
def batch():
    """Two utterances of 12 and 7 units: 20 and 12 frames."""
    torch.manual_seed(0)
    return {
        "units": torch.randint(0, 64, (2, 12)),
        "unit_lengths": torch.tensor([12, 7]),
        "speaker_embedding": torch.randn(2, 12),
    }


def row(batch: dict, i: int) -> dict:
    alone = {key: value[i : i + 1] for key, value in batch.items()}
    alone["units"] = alone["units"][:, : int(batch["unit_lengths"][i])]
    return alone


# --- lengths


def test_frame_count_is_float32_and_truncated(model):
    units = torch.tensor([1, 30, 31, 100, 1000])
    expected = [int(torch.tensor(n, dtype=torch.float32) / 50 * 22050 / 256) for n in units.tolist()]
    assert model.n_frames(units).tolist() == expected
    assert expected[:3] == [1, 51, 53]


def test_stretch_takes_the_same_positions_as_interpolate():
    x = torch.arange(40.0).expand(1, 3, 40)
    for n in (1, 2, 7, 29, 30, 40):
        for frames in (n, int(n * 1.7227), 97):
            ours = stretch(x[:, :, :n], torch.tensor([n]), torch.tensor([frames]))
            assert torch.equal(ours, F.interpolate(x[:, :, :n], size=frames, mode="nearest"))
    both = stretch(x[:, :, :10].expand(2, -1, -1), torch.tensor([10, 4]), torch.tensor([20, 9]))
    assert both[0, 0].max() == 9 and both[1, 0].max() == 3  # each row at its own rate, never into its padding


def test_length_mask_is_none_when_nothing_is_padded():
    assert length_mask(torch.tensor([4, 4]), 4) is None
    assert length_mask(torch.tensor([4, 2]), 4).tolist() == [[[1, 1, 1, 1]], [[1, 1, 0, 0]]]


def test_temperature_scales_the_noise_that_is_drawn(model, batch):
    def mel(**how) -> torch.Tensor:
        return model.generate(**batch, generator=torch.Generator().manual_seed(0), **how).mel

    frames = int(model.n_frames(batch["unit_lengths"]).max())
    noise = torch.randn(2, 80, frames, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mel(temperature=0.5), model.generate(**batch, noise=0.5 * noise).mel)
    assert torch.equal(mel(), mel(temperature=1.0)) and not torch.equal(mel(), mel(temperature=0.5))


# --- the sounds of units


def test_a_pronounced_flow_hears_the_sound_of_every_unit(batch):
    torch.manual_seed(1)
    model = Flow(replace(CONFIG, pronounced=True)).eval()
    frames, sounds = model.n_frames(batch["unit_lengths"]), torch.randint(1, len(SYMBOLS), (2, 12))

    def mu(**changed) -> torch.Tensor:
        return model.encode(*({**batch, "frames": frames} | changed).values())[0]

    batch = {"units": batch["units"], "unit_lengths": batch["unit_lengths"], "frames": frames} | batch
    with torch.no_grad():
        known, unknown = mu(sounds=sounds), mu(sounds=None)
        assert torch.equal(unknown, mu(sounds=torch.zeros_like(sounds)))
        assert (known - unknown).abs().max() > 1e-2
        elsewhere = sounds.clone()
        elsewhere[1, 7:] = 3  # the padding of the second utterance
        assert torch.equal(known, mu(sounds=elsewhere))
    assert "sound_embedding.weight" not in Flow(CONFIG).state_dict()  # the original has no such table


def test_some_training_samples_hear_no_sounds(batch):
    torch.manual_seed(1)
    model = Flow(replace(CONFIG, pronounced=True, dropout=0.0, sound_dropout=0.5, prior_weight=1.0))
    mel, lengths = torch.zeros(2, 80, 20), model.n_frames(batch["unit_lengths"])
    arguments = batch["units"], batch["unit_lengths"], mel, lengths, batch["speaker_embedding"]
    sounds = torch.randint(1, len(SYMBOLS), (2, 12))

    def losses() -> set[float]:
        return {round(model(*arguments, prior_only=True, sounds=sounds).item(), 6) for _ in range(40)}

    assert len(losses()) == 4  # both rows with sounds, either, none
    model.eval()
    assert len(losses()) == 1


# --- U-Net


def test_masked_group_norm_ignores_padding():
    torch.manual_seed(0)
    norm = MaskedGroupNorm(4, 8)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(1, 8, 9)
    padded = torch.cat((x, 10 * torch.randn(1, 8, 5)), dim=2)
    mask = (torch.arange(14) < 9).float()[None, None]
    torch.testing.assert_close(norm(padded, mask)[:, :, :9], norm(x, None), atol=1e-5, rtol=0)
    assert (norm(padded, None)[:, :, :9] - norm(x, None)).abs().max() > 0.1  # plain group norm does not


@pytest.mark.parametrize("n_frames", [2, 9, 16])
def test_unet_keeps_any_length_and_depends_on_every_input(n_frames):
    torch.manual_seed(0)
    unet = UNet(CONFIG)
    x, mu, prompt = torch.randn(3, 1, 80, n_frames)
    inputs = {"x": x, "mu": mu, "t": torch.tensor([0.3]), "speaker": torch.randn(1, 80), "prompt": prompt}
    with torch.no_grad():
        velocity = unet(mask=None, **inputs)
        assert velocity.shape == x.shape
        for name in inputs:
            assert (unet(mask=None, **{**inputs, name: inputs[name] + 0.5}) - velocity).abs().max() > 1e-4


def test_a_full_mask_is_no_mask():
    torch.manual_seed(0)
    unet, x = UNet(CONFIG), torch.randn(2, 80, 7)
    arguments = (x, torch.rand(2), torch.randn(2, 80), torch.zeros_like(x))
    with torch.no_grad():
        without = unet(x, None, *arguments)
        torch.testing.assert_close(unet(x, torch.ones(2, 1, 7), *arguments), without, atol=1e-5, rtol=0)


# --- probability path


class Velocity(torch.nn.Module):
    """Stands in for the U-Net."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


class KnowsTheAnswer(torch.nn.Module):
    """The exact velocity at any point of the straight line to one mel spectrogram."""

    def __init__(self, mel: torch.Tensor, error: float = 0.0):
        super().__init__()
        self.mel, self.error = mel, error

    def forward(self, x, mask, mu, t, speaker, prompt):
        rest = 1 - FlowMatching.sigma_min
        time = t[:, None, None]
        noise = (x - time * self.mel) / (1 - rest * time)
        return self.mel - rest * noise + self.error


def test_loss_is_zero_for_the_true_velocity_only():
    mel, condition = torch.randn(2, 80, 9), (torch.zeros(2, 80, 9), torch.zeros(2, 80))
    matching = FlowMatching(CONFIG)
    for error, expected in ((0.0, 0.0), (0.5, 0.25)):
        matching.estimator = KnowsTheAnswer(mel, error)
        assert matching.loss(mel, None, *condition).item() == pytest.approx(expected, abs=1e-4)


def test_loss_averages_over_real_frames_only():
    mel, mask = torch.randn(2, 80, 9), length_mask(torch.tensor([9, 4]), 9)
    matching = FlowMatching(CONFIG)
    target = mel.clone()
    target[1, :, 4:] += 100  # wrong, but padding
    matching.estimator = KnowsTheAnswer(target, 0.5)
    loss = matching.loss(mel, mask, torch.zeros_like(mel), torch.zeros(2, 80))
    assert loss.item() == pytest.approx(0.25, abs=1e-4)


@pytest.mark.parametrize("n_timesteps", [1, 3, 10])
def test_straight_lines_are_followed_exactly(n_timesteps):
    mel, noise = torch.randn(1, 80, 9), torch.randn(1, 80, 9)
    matching = FlowMatching(CONFIG)
    velocity = mel - noise
    matching.estimator = Velocity(lambda x, *rest: velocity.expand_as(x))
    result = matching.sample(noise, None, torch.zeros_like(mel), torch.zeros(1, 80), n_timesteps, guidance=0.7)
    torch.testing.assert_close(result, mel, atol=1e-5, rtol=0)


def test_time_runs_from_0_to_1_in_growing_steps():
    grid = cosine_time(torch.linspace(0, 1, 11))
    assert grid[0] == 0 and grid[-1] == pytest.approx(1.0)
    torch.testing.assert_close(grid[3], torch.tensor(1 - math.cos(math.pi / 2 * 0.3)))
    steps = grid.diff()
    assert (steps.diff() > 0).all()


def test_guidance_weighs_the_two_velocities():
    noise, mu = torch.zeros(1, 80, 4), torch.ones(1, 80, 4)
    matching = FlowMatching(CONFIG)
    # 4 with the condition, 1 without
    matching.estimator = Velocity(lambda x, mask, mu, t, speaker, prompt: 3 * mu + 1)
    for guidance, expected in ((0.0, 4.0), (0.7, 1.7 * 4 - 0.7 * 1)):
        result = matching.sample(noise, None, mu, torch.zeros(1, 80), 4, guidance)
        torch.testing.assert_close(result, torch.full_like(mu, expected), atol=1e-5, rtol=0)


def test_condition_dropout_hides_everything(batch):
    torch.manual_seed(0)
    mel = torch.randn(2, 80, 20)
    for share, blind in ((0.0, False), (1.0, True)):
        model = Flow(replace(CONFIG, condition_dropout=share)).eval()

        def loss(speaker, model=model):
            seed = torch.Generator().manual_seed(5)
            return model(batch["units"], batch["unit_lengths"], mel, torch.tensor([20, 12]), speaker, seed).item()

        one, other = loss(batch["speaker_embedding"]), loss(batch["speaker_embedding"].flip(0))
        assert (one == other) == blind


@pytest.mark.parametrize("one_batch", [True, False])
def test_without_guidance_the_network_is_called_once_per_step(one_batch):
    torch.manual_seed(0)
    matching = FlowMatching(CONFIG).eval()
    noise, mu = torch.randn(2, 2, 80, 9)
    speaker, mask = torch.randn(2, 80), length_mask(torch.tensor([9, 6]), 9)
    rows = []
    matching.estimator.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))

    def sample(guidance):
        rows.clear()
        return matching.sample(noise, mask, mu, speaker, 3, guidance, one_batch)

    plain = sample(0.0)
    assert rows == [2] * 3
    both = sample(1e-9)  # both branches are computed, and the unconditional one gets no weight
    assert rows == ([4] * 3 if one_batch else [2] * 6)
    torch.testing.assert_close(plain, both, atol=1e-5, rtol=0)
    assert (sample(0.7) - plain).abs().max() > 1e-3


# --- paths that begin at mu

AT_MU = replace(CONFIG, start_at_mu=True, noise_scale=0.3)


def test_without_a_velocity_the_sample_stays_where_the_path_begins():
    torch.manual_seed(0)
    noise, mu = torch.randn(2, 1, 80, 9)
    for config, expected in ((CONFIG, noise), (AT_MU, mu + 0.3 * noise)):
        matching = FlowMatching(config).eval()
        for parameter in matching.estimator.final_proj.parameters():
            parameter.data.zero_()
        for guidance in (0.0, 0.7):
            result = matching.sample(noise, None, mu, torch.randn(1, 80), 3, guidance)
            torch.testing.assert_close(result, expected)


def test_the_network_learns_the_way_from_the_beginning_to_the_mel():
    torch.manual_seed(0)
    mel = torch.randn(2, 80, 9)
    mu = mel + 0.1 * torch.randn(2, 80, 9)  # all but the fine detail
    seen = {}

    def nothing(x, mask, mu, t, speaker, prompt):
        seen.update(point=x, time=t[:, None, None])
        return torch.zeros_like(x)

    losses = {}
    for config in (CONFIG, AT_MU):
        matching = FlowMatching(config)
        matching.estimator = Velocity(nothing)
        losses[config] = matching.loss(mel, None, mu, torch.zeros(2, 80), torch.Generator().manual_seed(3))
        rest = 1 - FlowMatching.sigma_min
        begin = (seen["point"] - seen["time"] * mel) / (1 - rest * seen["time"])
        velocity = mel - rest * begin
        torch.testing.assert_close(losses[config], velocity.square().mean())  # the target minus a prediction of 0
        generator = torch.Generator().manual_seed(3)
        torch.rand(2, generator=generator)
        noise = torch.randn(mel.shape, generator=generator)
        expected = mu + 0.3 * noise if config.start_at_mu else noise
        torch.testing.assert_close(begin, expected, atol=1e-4, rtol=0)
    assert losses[AT_MU] < 0.2 < 1 < losses[CONFIG]  # a shorter way


def test_mu_learns_from_the_network_that_reads_it_and_not_as_the_beginning():
    """Pulling mu to where the path is easy would be another loss."""
    mel, mu = torch.randn(1, 80, 9), torch.randn(1, 80, 9, requires_grad=True)
    matching = FlowMatching(replace(AT_MU, condition_dropout=0.0))
    deaf = torch.nn.Parameter(torch.zeros(()))
    matching.estimator = Velocity(lambda x, *rest: deaf * x)
    matching.loss(mel, None, mu, torch.zeros(1, 80)).backward()
    assert mu.grad is None or not mu.grad.any()
    matching.estimator = Velocity(lambda x, mask, mu, *rest: mu)
    matching.loss(mel, None, mu, torch.zeros(1, 80)).backward()
    assert mu.grad.abs().max() > 0


def test_only_the_mini_preset_begins_at_mu():
    assert mini().flow.start_at_mu and 0 < mini().flow.noise_scale < 1
    noise, mu = torch.randn(2, 1, 80, 4)
    for config in (paper().flow, tiny().flow):
        with torch.device("meta"):
            matching = FlowMatching(config)
        assert torch.equal(matching.begin(noise, mu), noise)


# --- the whole flow


@pytest.mark.parametrize("lengths", [(12, 7), (9, 9)])
def test_both_guidance_branches_in_one_batch_give_the_same(model, batch, lengths):
    batch["unit_lengths"] = torch.tensor(lengths)
    noise = torch.randn(2, 80, int(model.n_frames(batch["unit_lengths"]).max()))
    one = model.generate(**batch, noise=noise, one_batch=True).mel
    two = model.generate(**batch, noise=noise, one_batch=False).mel
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)
    unguided = model.generate(**batch, noise=noise, guidance=0.0).mel
    assert (unguided - one).abs().max() > 1e-3


def test_a_padded_batch_gives_what_each_row_gives_alone(model, batch):
    noise = torch.randn(2, 80, 20)
    together = model.generate(**batch, noise=noise)
    assert together.lengths.tolist() == [20, 12]
    for i, frames in enumerate((20, 12)):
        alone = model.generate(**row(batch, i), noise=noise[i : i + 1, :, :frames]).mel
        torch.testing.assert_close(together.mel[i, :, :frames], alone[0], atol=1e-4, rtol=0)
        assert (together.mel[i, :, frames:] == 0).all()


def test_padding_without_masks_would_be_heard(model, batch, monkeypatch):
    noise = torch.randn(2, 80, 20)
    monkeypatch.setattr(MaskedGroupNorm, "forward", lambda self, x, mask: torch.nn.GroupNorm.forward(self, x))
    together = model.generate(**batch, noise=noise).mel[1, :, :12]
    alone = model.generate(**row(batch, 1), noise=noise[1:, :, :12]).mel[0]
    assert (together - alone).abs().max() > 1e-2


def test_seed_steps_and_bad_noise(model, batch):
    def draw(seed, n_timesteps=2):
        return model.generate(**batch, generator=torch.Generator().manual_seed(seed), n_timesteps=n_timesteps).mel

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    assert not torch.equal(draw(0), draw(0, n_timesteps=3))
    with pytest.raises(TasteError, match="noise must have the shape"):
        model.generate(**batch, noise=torch.zeros(2, 80, 3))
    with pytest.raises(TasteError, match="no units"):
        model.generate(batch["units"], torch.tensor([12, 0]), batch["speaker_embedding"])


def test_every_parameter_learns_and_the_loss_falls(batch):
    torch.manual_seed(0)
    model = Flow(replace(CONFIG, dropout=0.0, condition_dropout=0.0))
    mel, lengths = torch.randn(2, 80, 25), torch.tensor([20, 12])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(30):
        seed = torch.Generator().manual_seed(0)  # always the same noise and times
        loss = model(batch["units"], batch["unit_lengths"], mel, lengths, batch["speaker_embedding"], seed)
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_runs_under_bfloat16_autocast(model, batch):
    mel, lengths = torch.randn(2, 80, 20), torch.tensor([20, 12])
    inputs = (batch["units"], batch["unit_lengths"], mel, lengths, batch["speaker_embedding"])
    full = model(*inputs, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(*inputs, torch.Generator().manual_seed(0))
    assert abs(half - full) < 0.05 * full


# --- the original


def test_golden_tensors(parity_dir):
    golden = load_golden(parity_dir / "flow.safetensors")
    rows = parity_decoder.golden_flow(golden)
    assert {r.output for r in rows} == set(golden.outputs)
    assert [r for r in rows if not r.ok] == []
    golden.config["cfg"] = 0.71
    assert not parity_decoder.golden_flow(golden)[0].ok


def test_sizes():
    with torch.device("meta"):
        model = Flow(mini().flow)
    assert 2e6 < sum(parameter.numel() for parameter in model.parameters()) < 8e6
    with pytest.raises(TasteError, match="multiple of 8"):
        FlowConfig(channels=20)
