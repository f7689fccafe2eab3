"""Relative attention against the formula written out, causality, padding, and the key/value cache."""

import math

import pytest
import torch

from taste_min.transformer import RelativeAttention, RelativeTransformer, relative_positions, shift_distances

D, H = 16, 4


def transformer(causal: bool, **options) -> RelativeTransformer:
    torch.manual_seed(0)
    return RelativeTransformer(12, D, H, 24, n_layers=2, causal=causal, **options).eval()


def all_valid(n: int, batch: int = 1) -> torch.Tensor:
    return torch.ones(batch, n, dtype=torch.bool)


def test_position_rows_are_sines_and_cosines_of_the_distance():
    table = relative_positions(3, -2, D)
    assert table.shape == (6, D)
    for row, distance in zip(table, (3, 2, 1, 0, -1, -2), strict=True):
        for i in range(D // 2):
            angle = distance * 10000 ** (-2 * i / D)
            assert row[2 * i] == pytest.approx(math.sin(angle), abs=1e-6)
            assert row[2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-6)


@pytest.mark.parametrize(("n_queries", "n_keys", "causal"), [(5, 5, False), (5, 5, True), (1, 6, True), (3, 6, True)])
def test_shift_finds_every_distance(n_queries, n_keys, causal):
    distances = torch.arange(n_keys - 1, -1 if causal else -n_keys, -1.0)
    shifted = shift_distances(distances.expand(2, n_queries, -1), n_keys)
    queries = torch.arange(n_keys - n_queries, n_keys)
    expected = (queries[:, None] - torch.arange(n_keys)).float()
    seen = expected >= 0 if causal else torch.ones_like(expected, dtype=torch.bool)
    assert shifted.shape == (2, n_queries, n_keys)
    assert torch.equal(shifted[1][seen], expected[seen])


@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_the_formula(causal):
    torch.manual_seed(0)
    attention = RelativeAttention(D, H, dropout=0.0).eval()
    n, d_head = 5, D // H
    x = torch.randn(1, n, D)
    mask = torch.ones(n, n, dtype=torch.bool)
    if causal:
        mask = mask.tril()
    with torch.no_grad():
        ours = attention(x, relative_positions(n - 1, 0 if causal else 1 - n, D), mask[None, None])
        q, k, v = (linear(x[0]) for linear in (attention.linear_q, attention.linear_k, attention.linear_v))
        mixed = torch.zeros(n, D)
        for head in range(H):
            part = slice(head * d_head, (head + 1) * d_head)
            u, w = attention.pos_bias_u[head], attention.pos_bias_v[head]
            scores = torch.full((n, n), -torch.inf)
            for i in range(n):
                for j in range(n):
                    if mask[i, j]:
                        p = attention.linear_pos(relative_positions(i - j, i - j, D))[0, part]
                        scores[i, j] = ((q[i, part] + u) @ k[j, part] + (q[i, part] + w) @ p) / math.sqrt(d_head)
            mixed[:, part] = scores.softmax(-1) @ v[:, part]
        torch.testing.assert_close(ours[0], attention.linear_out(mixed), atol=1e-6, rtol=0)
        mirrored = attention(x, -relative_positions(n - 1, 0 if causal else 1 - n, D), mask[None, None])
    assert (mirrored - ours).abs().max() > 1e-3  # the position part matters


def test_input_is_normalised_and_scaled_to_the_square_root_of_the_width():
    for relu in (False, True):
        model, x = transformer(causal=True, relu=relu), torch.randn(1, 50, 12)
        output = model.embed(x)
        assert output.square().mean().item() == pytest.approx(D / 2 if relu else D, rel=0.1)
        assert (output >= 0).all() == relu


def test_causal_positions_see_the_past_only():
    x = torch.randn(1, 6, 12)
    changed = x.clone()
    changed[:, 3] += 1
    for causal in (True, False):
        model = transformer(causal)
        with torch.no_grad():
            moved = (model(x, all_valid(6)) - model(changed, all_valid(6))).abs().amax(dim=(0, 2)) > 1e-6
        assert moved.tolist() == [not causal] * 3 + [True] * 3


@pytest.mark.parametrize("causal", [True, False])
def test_right_padding_changes_nothing(causal):
    model, x = transformer(causal), torch.randn(1, 5, 12)
    padded = torch.cat((x, torch.randn(1, 3, 12)), dim=1)
    valid = torch.arange(8)[None] < 5
    with torch.no_grad():
        torch.testing.assert_close(model(padded, valid)[:, :5], model(x, all_valid(5)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pieces", [(7, 1, 1, 1), (4, 3, 3), (1,) * 10])
def test_cache_equals_full_computation(pieces):
    model, x = transformer(causal=True), torch.randn(2, 10, 12)
    caches, outputs, end = model.new_caches(), [], 0
    with torch.no_grad():
        for size in pieces:
            end += size
            outputs.append(model(x[:, end - size : end], all_valid(end, 2), caches))
        torch.testing.assert_close(torch.cat(outputs, dim=1), model(x, all_valid(10, 2)), atol=1e-5, rtol=0)


def test_left_padding_stays_finite_and_changes_nothing():
    model, x = transformer(causal=True), torch.randn(1, 5, 12)
    padded = torch.cat((torch.full((1, 4, 12), -1.0), x), dim=1)
    with torch.no_grad():
        output = model(padded, torch.arange(9)[None] >= 4)
        torch.testing.assert_close(output[:, 4:], model(x, all_valid(5)), atol=1e-5, rtol=0)
    assert output.isfinite().all()


def test_every_parameter_gets_a_gradient_and_dropout_is_for_training():
    model, x = transformer(causal=False, attention_dropout=0.1), torch.randn(2, 6, 12)
    model.train()
    assert not torch.equal(model(x, all_valid(6, 2)), model(x, all_valid(6, 2)))
    (model(x, all_valid(6, 2)) * torch.randn(2, 6, D)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters() if parameter.numel() > 1)


def test_runs_under_bfloat16_autocast():
    model, x = transformer(causal=True), torch.randn(2, 6, 12)
    with torch.no_grad():
        full = model(x, all_valid(6, 2))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model(x, all_valid(6, 2))
    assert (half - full).abs().max() < 0.1


def test_checkpointing_changes_memory_and_no_number():
    torch.manual_seed(0)
    model = RelativeTransformer(6, 16, n_heads=2, d_ff=24, n_layers=3, causal=True, dropout=0.1).train()
    x, gradients = torch.randn(2, 7, 6), []
    for model.checkpointing in (False, True):
        torch.manual_seed(1)  # the same dropout
        model.zero_grad()
        model(x, all_valid(7, 2)).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain, atol=1e-6, rtol=1e-5)
