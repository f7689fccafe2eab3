"""The unit decoder: layout, masking, losses, cached and batched decoding, sampling, and equality with the original."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from decoder_batch import prompt, row

from taste_min import parity_decoder
from taste_min.config import mini, tiny
from taste_min.errors import TasteError
from taste_min.golden import load_golden
from taste_min.unit_decoder import UnitDecoder, label_smoothing_loss
from taste_min.unit_sampling import Sampling, sample_units

CONFIG = tiny().unit_decoder
END = CONFIG.n_units


@pytest.fixture
def model():
    torch.manual_seed(1)
    return UnitDecoder(CONFIG).eval()


@pytest.fixture
def batch():
    """Three texts of 6, 3 and 1 tokens with 9, 5 and 7 units."""
    torch.manual_seed(0)
    return {
        "text_ids": torch.randint(0, 100, (3, 6)),
        "text_lengths": torch.tensor([6, 3, 1]),
        "units": torch.randint(0, 64, (3, 9)),
        "unit_lengths": torch.tensor([9, 5, 7]),
        "speaker_embedding": torch.randn(3, 12),
        "taste_embeddings": torch.randn(3, 6, 32),
    }


def test_labels_start_at_the_task_position_and_close_with_the_end(model, batch):
    labels = model(**batch).labels
    assert labels.shape == (3, 6 + 3 + 9)
    for i in range(3):
        n, u = int(batch["text_lengths"][i]), int(batch["unit_lengths"][i])
        expected = [-1] * (2 + n) + batch["units"][i, :u].tolist() + [END]
        assert labels[i].tolist() == expected + [-1] * (18 - len(expected))


def test_units_are_predicted_from_the_past(model, batch):
    alone = row(batch, 0)
    with torch.no_grad():
        before = model(**alone).logits
        alone["units"] = alone["units"].clone()
        alone["units"][0, 4] = (alone["units"][0, 4] + 1) % 64
        moved = (model(**alone).logits - before).abs().amax(dim=(0, 2)) > 1e-6
    position = 6 + 3 + 4  # where unit 4 is read
    assert moved.tolist() == [False] * position + [True] * (18 - position)


@pytest.mark.parametrize("branch", ["text_ids", "taste_embeddings"])
def test_both_encoders_are_causal(model, batch, branch):
    inputs = [batch[key][:1] for key in ("text_ids", "text_lengths", "taste_embeddings")]
    changed = {**batch, branch: batch[branch].clone()}
    changed[branch][0, 3] += 1
    with torch.no_grad():
        other = model.fuse(*(changed[key][:1] for key in ("text_ids", "text_lengths", "taste_embeddings")))[0]
        moved = (model.fuse(*inputs)[0] - other).abs().amax(dim=(0, 2)) > 1e-6
    assert moved.tolist() == [False] * 3 + [True] * 3


def test_padding_changes_nothing(model, batch):
    with torch.no_grad():
        together = model(**batch)
        losses = [model(**row(batch, i)) for i in range(3)]
    for i, alone in enumerate(losses):
        torch.testing.assert_close(together.logits[i, : alone.logits.shape[1]], alone.logits[0], atol=1e-5, rtol=0)
    counts = batch["unit_lengths"] + 1
    mean = sum(alone.loss * n for alone, n in zip(losses, counts, strict=True)) / counts.sum()
    torch.testing.assert_close(together.loss, mean)


def test_text_only_leaves_the_audio_branch_out(model, batch):
    alone = {key: value for key, value in batch.items() if key != "taste_embeddings"}
    with pytest.raises(TasteError, match="text_only"):
        model(**alone)
    prediction = model(**batch, text_only=True)
    torch.testing.assert_close(prediction.logits, model(**alone, text_only=True).logits)
    assert (prediction.logits - model(**batch).logits).abs().max() > 1e-3
    prediction.loss.backward()
    for name, parameter in model.named_parameters():
        audio = name.startswith(("audio_", "fusion"))
        assert (parameter.grad is None) == audio, name


def test_fusion_starts_balanced(model):
    audio, text = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    torch.testing.assert_close(model.fusion(audio, text), (audio + text) / 2)
    model.fusion.weights.data[0] = 50.0
    torch.testing.assert_close(model.fusion(audio, text), audio)


def test_speaker_loudness_of_the_vector_does_not_matter(model, batch):
    louder = {**batch, "speaker_embedding": batch["speaker_embedding"] * 3}
    other = {**batch, "speaker_embedding": batch["speaker_embedding"].flip(0)}
    with torch.no_grad():
        torch.testing.assert_close(model(**louder).logits, model(**batch).logits, atol=1e-5, rtol=0)
        assert (model(**other).logits - model(**batch).logits).abs().max() > 1e-3


def test_every_parameter_learns_and_the_loss_falls(batch):
    torch.manual_seed(0)
    model = UnitDecoder(replace(CONFIG, dropout=0.0, position_dropout=0.0))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 3.5 and losses[-1] < 0.5 * losses[0]


def test_runs_under_bfloat16_autocast(model, batch):
    full = model(**batch).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(**batch)
    half.loss.backward()
    assert abs(half.loss - full) < 0.05 and model.llm_decoder.weight.grad.isfinite().all()


# --- loss


def test_label_smoothing_is_the_divergence_written_out():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 5), torch.tensor([[1, -1, 4], [0, 2, -1]])
    for smoothing in (0.0, 0.2):
        total, count = 0.0, 0
        for position, label in zip(logits.flatten(0, 1), labels.flatten(), strict=True):
            if label >= 0:
                target = torch.full((5,), smoothing / 4)
                target[label] = 1 - smoothing
                total += torch.xlogy(target, target).sum() - (target * position.log_softmax(0)).sum()
                count += 1
        torch.testing.assert_close(label_smoothing_loss(logits, labels, smoothing), total / count)
    assert label_smoothing_loss(logits, labels, 0.2) < label_smoothing_loss(logits, labels, 0.0)
    plain = F.cross_entropy(logits[labels >= 0], labels[labels >= 0])
    torch.testing.assert_close(label_smoothing_loss(logits, labels, 1e-12), plain)


# --- generation


def test_greedy_decoding_equals_repeated_full_computation(model, batch):
    alone = prompt(row(batch, 1))
    result = model.generate(**alone, sampling=Sampling(greedy=True, min_units=8, max_units=8))
    units = torch.zeros(1, 0, dtype=torch.long)
    with torch.no_grad():
        for _ in range(8):
            logits = model(**alone, units=units, unit_lengths=torch.tensor([units.shape[1]])).logits[:, -1]
            units = torch.cat((units, logits[:, :END].argmax(-1, keepdim=True)), dim=1)
    assert torch.equal(result.units, units)


@pytest.mark.parametrize("text_only", [True, False])
def test_batched_greedy_decoding_equals_one_by_one(model, batch, text_only):
    for block in model.llm.encoders:  # attention that matters: what padding says would be heard
        block.self_attn.linear_out.weight.data *= 10
    model.llm_decoder.bias.data[END] += 0.6  # some rows end by themselves
    greedy = Sampling(greedy=True, max_ratio=5)
    together = model.generate(**prompt(batch), text_only=text_only, sampling=greedy)
    for i in range(3):
        alone = model.generate(**prompt(row(batch, i)), text_only=text_only, sampling=greedy)
        n = int(together.lengths[i])
        assert n == int(alone.lengths[0]) and together.ended[i] == alone.ended[0]
        assert torch.equal(together.units[i, :n], alone.units[0])
        assert (together.units[i, n:] == -1).all()
    assert len(set(together.lengths.tolist())) > 1


def test_limits_count_from_the_prompt(model, batch):
    model.llm_decoder.bias.data[END] = 100.0  # always wants to stop
    result = model.generate(**prompt(batch), sampling=Sampling(greedy=True))
    assert result.lengths.tolist() == [2 * (n + 3) for n in (6, 3, 1)] and result.ended.all()
    result = model.generate(**prompt(batch), sampling=Sampling(min_units=4))
    assert result.lengths.tolist() == [4, 4, 4]
    model.llm_decoder.bias.data[END] = -100.0  # never wants to stop
    result = model.generate(**prompt(batch), sampling=Sampling(greedy=True))
    assert result.lengths.tolist() == [20 * (n + 3) for n in (6, 3, 1)] and not result.ended.any()
    result = model.generate(**prompt(batch), sampling=Sampling(greedy=True, max_units=5))
    assert result.units.shape == (3, 5) and not result.ended.any()


def test_an_immediate_end_gives_no_units(model, batch):
    model.llm_decoder.bias.data[END] = 100.0
    result = model.generate(**prompt(batch), sampling=Sampling(greedy=True, min_units=0))
    assert result.units.shape == (3, 0) and result.lengths.tolist() == [0, 0, 0] and result.ended.all()


def test_a_seed_repeats_the_draw(model, batch):
    def draw(seed):
        options = {"sampling": Sampling(max_units=12), "generator": torch.Generator().manual_seed(seed)}
        return model.generate(**prompt(batch), **options).units

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


def test_empty_text_and_bad_sampling_are_refused(model, batch):
    inputs = prompt(batch)
    inputs["text_lengths"] = torch.tensor([6, 0, 1])
    with pytest.raises(TasteError, match="no text"):
        model.generate(**inputs)
    for options in ({"top_k": 0}, {"top_p": 0.0}, {"temperature": 0.0}, {"max_units": 0}):
        with pytest.raises(TasteError):
            Sampling(**options)


# --- sampling


def frequencies(logits: torch.Tensor, ban: bool, sampling: Sampling, n: int = 20_000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = sample_units(logits.expand(n, -1), torch.full((n,), ban), sampling, generator)
    return torch.bincount(drawn, minlength=len(logits)) / n


PROBS = torch.tensor([0.3, 0.05, 0.2, 0.1, 0.35])  # the last class is the end


@pytest.mark.parametrize(
    ("sampling", "ban", "expected"),
    [
        (Sampling(), False, PROBS),
        (Sampling(top_k=3), False, torch.tensor([0.3, 0, 0.2, 0, 0.35]) / 0.85),
        # the original draws again from the same three until it is not the end
        (Sampling(top_k=3), True, torch.tensor([0.3, 0, 0.2, 0, 0]) / 0.5),
        (Sampling(top_p=0.6), False, torch.tensor([0.3, 0, 0, 0, 0.35]) / 0.65),
        (Sampling(top_k=3, top_p=0.9), False, torch.tensor([0.3, 0, 0.2, 0, 0.35]) / 0.85),
        (Sampling(temperature=0.5), False, PROBS**2 / (PROBS**2).sum()),
        (Sampling(top_k=1), False, torch.tensor([0.0, 0, 0, 0, 1])),
        (Sampling(greedy=True), True, torch.tensor([1.0, 0, 0, 0, 0])),
        # only the banned end is in the set: the original never returns, we take the best unit
        (Sampling(top_k=1), True, torch.tensor([1.0, 0, 0, 0, 0])),
        (Sampling(top_p=0.2), True, torch.tensor([1.0, 0, 0, 0, 0])),
    ],
)
def test_draws_follow_the_distribution(sampling, ban, expected):
    measured = frequencies(PROBS.log(), ban, sampling)
    assert (measured - expected).abs().max() < 0.015
    assert ((measured > 0) == (expected > 0)).all()
    wrong = PROBS.flip(0) if sampling != Sampling() or ban else torch.full((5,), 0.2)
    assert (measured - wrong).abs().max() > 0.015  # the band can be missed


# --- the original


def test_golden_tensors(parity_dir):
    golden = load_golden(parity_dir / "speech_decoder.safetensors")
    rows = parity_decoder.golden_speech_decoder(golden)
    assert {r.output for r in rows} == set(golden.outputs)
    assert [r for r in rows if not r.ok] == []
    golden.weights["fuse_encoded_audio_text_module.weights"] += torch.tensor([0.1, 0.0])
    wrong = {r.output: r.ok for r in parity_decoder.golden_speech_decoder(golden)}
    assert not wrong["logits"] and wrong["logits_text_only"]  # a wrong mixture is noticed


def test_mini_size_fits_the_budget():
    with torch.device("meta"):
        model = UnitDecoder(mini().unit_decoder)
    assert 5e6 < sum(parameter.numel() for parameter in model.parameters()) < 8e6
