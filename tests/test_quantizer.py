"""Properties of the residual vector quantizer, then its edges."""

import random
from dataclasses import replace

import pytest
import torch

from taste_min import quantizer
from taste_min.config import RVQConfig, tiny
from taste_min.errors import TasteError
from taste_min.quantizer import Codebook, ResidualVQ, rename_original

CONFIG = replace(tiny().rvq, quantizer_dropout=False)
TWO = replace(CONFIG, codebook_dim=1, codebook_size=2, decay=0.75)


def make(config: RVQConfig = CONFIG, seed: int = 0) -> ResidualVQ:
    """A quantizer whose codebooks were initialised on one batch; in eval mode."""
    torch.manual_seed(seed)
    model = ResidualVQ(config).train()
    model(torch.randn(4, 50, config.d_model))
    return model.eval()


def test_codes_round_trip_to_the_quantized_vectors():
    model, x = make(), torch.randn(2, 9, 32)
    result = model(x)
    assert result.codes.shape == (2, 9, 4)
    assert result.codes.dtype == torch.int64
    torch.testing.assert_close(model.decode(result.codes), result.quantized, atol=1e-6, rtol=0)


def test_search_takes_the_nearest_vector_and_each_layer_lowers_the_error():
    model, x = make(), torch.randn(1, 200, 32)
    h = model.project_in(x)[0]
    first = model(x).codes[0, :, 0]
    distances = torch.cdist(h, model.layers[0].embed)
    assert torch.equal(first, distances.argmin(-1))
    codes = model(x).codes[0]
    errors = [(h - model.embed_codes(codes[:, :r])).square().mean() for r in range(1, 5)]
    assert all(later < earlier for earlier, later in zip(errors, errors[1:], strict=False))
    torch.testing.assert_close(model(x).commitment_loss, sum(errors))
    assert not torch.equal(codes[:, 0], codes[torch.randperm(200), 0])  # the comparison above can fail


def test_masked_positions_give_minus_one_and_the_output_bias_and_change_nothing_else():
    model, x = make(), torch.randn(2, 7, 32)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 4:] = False
    result, full = model(x, mask), model(x)
    assert (result.codes[1, 4:] == -1).all()
    torch.testing.assert_close(result.quantized[1, 4:], model.project_out.bias.expand(3, -1))
    torch.testing.assert_close(result.quantized[mask], full.quantized[mask])
    torch.testing.assert_close(model.decode(result.codes), result.quantized, atol=1e-6, rtol=0)
    polluted = torch.where(mask[..., None], x, torch.full_like(x, 1e6))
    torch.testing.assert_close(model(polluted, mask).commitment_loss, result.commitment_loss)


@pytest.mark.parametrize(("summed", "factor"), [(True, 4.0), (False, 1.0)])
def test_straight_through_gradient_is_the_documented_multiple(summed, factor):
    model = make(replace(CONFIG, sum_straight_through=summed))
    x = torch.randn(1, 5, 32, requires_grad=True)
    upstream = torch.randn(1, 5, 32)
    (model(x).quantized * upstream).sum().backward()
    expected = factor * upstream @ model.project_out.weight @ model.project_in.weight
    torch.testing.assert_close(x.grad, expected, atol=1e-4, rtol=1e-4)


def test_quantized_value_does_not_depend_on_the_gradient_switch():
    x = torch.randn(1, 5, 32)
    a, b = make(), make(replace(CONFIG, sum_straight_through=False))
    torch.testing.assert_close(a(x).quantized, b(x).quantized)


def test_ema_moves_codebooks_towards_what_they_quantize_only_in_training():
    model, x = make(), torch.randn(8, 60, 32) + 1.0
    before = model.layers[0].embed.clone()
    model(x)
    assert torch.equal(model.layers[0].embed, before)
    loss = model(x).commitment_loss.item()
    model.train()
    for _ in range(200):
        model(x)
    assert not torch.equal(model.layers[0].embed, before)
    assert model.eval()(x).commitment_loss.item() < 0.9 * loss


def test_kmeans_fits_better_than_random_vectors():
    torch.manual_seed(0)
    x = torch.randn(1, 500, 32)
    model = make()
    model.layers[0].init_kmeans(model.project_in(x)[0].detach())
    h = model.project_in(x)[0]

    def error(codebook):
        return torch.cdist(h, codebook).min(-1).values.square().mean()

    random_rows = h[torch.randperm(500)[:24]]
    assert error(model.layers[0].embed) < 0.95 * error(random_rows)


def test_near_and_equal_vectors_are_told_apart_by_distance_and_order():
    book = Codebook(CONFIG)
    book.embed.copy_(1e-3 * torch.randn(24, 16, generator=torch.Generator().manual_seed(0)))
    assert book.nearest(book.embed).tolist() == list(range(24))
    book.embed[5] = book.embed[2]
    assert book.nearest(book.embed[5:6]).item() == 2


def test_as_many_vectors_as_codes_become_the_codebook():
    book, x = Codebook(CONFIG), torch.randn(24, 16)
    book.init_kmeans(x)
    assert set(map(tuple, book.embed.tolist())) == set(map(tuple, x.tolist()))
    assert torch.equal(book.embed_avg, book.embed) and (book.cluster_size == 1).all() and book.initted == 1


def test_kmeans_moves_lone_vectors_and_keeps_empty_clusters():
    for seed in range(8):  # whichever vectors it starts from
        torch.manual_seed(seed)
        book = Codebook(TWO)
        book.init_kmeans(torch.tensor([[0.0], [1.0], [10.0]]))
        assert sorted(book.embed.flatten().tolist()) == [0.5, 10.0]
        assert sorted(book.embed_avg.flatten().tolist()) == [1.0, 10.0]
        assert sorted(book.cluster_size.tolist()) == [1.0, 2.0]
    book.init_kmeans(torch.tensor([[3.0]]))
    assert book.embed.tolist() == [[3.0], [3.0]] and book.cluster_size.tolist() == [1.0, 0.0]


def test_one_step_of_the_moving_average_by_hand():
    book = Codebook(TWO)
    book.cluster_size.copy_(torch.tensor([0.01, 0.0]))
    book.embed_avg.copy_(torch.tensor([[0.02], [4e-5]]))
    book.update_ema(torch.tensor([[2.0]]), torch.tensor([0]))
    sizes, sums = (0.01 * 0.75 + 0.25, 0.0), (0.02 * 0.75 + 2 * 0.25, 4e-5 * 0.75)
    assert book.cluster_size.tolist() == pytest.approx(sizes) and book.embed_avg.flatten().tolist() == pytest.approx(
        sums
    )
    share = [(size + 1e-5) / (sum(sizes) + 2e-5) * sum(sizes) for size in sizes]  # a code that is never used has some
    assert book.embed.flatten().tolist() == pytest.approx([s / n for s, n in zip(sums, share, strict=True)], rel=5e-6)


def test_processes_start_from_the_first_ones_vectors_and_add_up_what_they_count(monkeypatch):
    def fitted():
        torch.manual_seed(0)
        book = Codebook(CONFIG)
        book.init_kmeans(torch.randn(100, 16))
        return book

    alone, asked = fitted(), []
    monkeypatch.setattr(quantizer.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(quantizer.dist, "broadcast", lambda tensor, src: asked.append((tuple(tensor.shape), src)))
    monkeypatch.setattr(quantizer.dist, "all_reduce", lambda tensor: tensor.mul_(2))  # the other one has the same
    both = fitted()
    assert asked == [((24, 16), 0)]
    torch.testing.assert_close(both.embed, alone.embed)
    torch.testing.assert_close(both.cluster_size, 2 * alone.cluster_size)
    torch.testing.assert_close(both.embed_avg, 2 * alone.embed_avg)


def test_codebooks_start_once():
    model = make().train()
    before = model.layers[0].embed.norm()
    model(10 * torch.randn(4, 50, 32))
    assert model.layers[0].embed.norm() < 2 * before


def test_kmeans_works_with_fewer_vectors_than_codes():
    model = ResidualVQ(CONFIG).train()
    result = model(torch.randn(1, 5, 32))
    assert torch.isfinite(result.quantized).all()


def test_quantizer_dropout_drops_last_layers_only_in_training():
    random.seed(0)
    model = make(replace(CONFIG, quantizer_dropout=True))
    x = torch.randn(1, 6, 32)
    assert (model(x).codes >= 0).all()
    model.train()
    active = {int((model(x).codes[0, 0] >= 0).sum()) for _ in range(60)}
    assert active == {1, 2, 3, 4}
    codes = [model(x).codes[0, 0] for _ in range(20)]
    assert all((c[int((c >= 0).sum()) :] == -1).all() for c in codes)


def test_usage_and_perplexity_see_a_collapsed_codebook():
    model = make()
    spread = model(torch.randn(1, 400, 32))
    assert (spread.perplexity > 8).all()
    assert (spread.usage > 0.5).all()
    collapsed = model(torch.ones(1, 400, 32))
    torch.testing.assert_close(collapsed.perplexity, torch.ones(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(collapsed.usage, torch.full((4,), 1 / 24))
    single = model(torch.randn(1, 1, 32))
    torch.testing.assert_close(single.perplexity, torch.ones(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(single.usage, torch.full((4,), 1 / 24))


def test_residual_search_from_codebook_space_finds_the_same_codes():
    model, x = make(), torch.randn(2, 9, 32)
    assert torch.equal(model.encode_embedding(model.project_in(x)), model(x).codes)


def test_quantizes_in_float32_under_autocast():
    model, x = make(), torch.randn(1, 50, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = model(x)
    assert result.quantized.dtype == torch.float32
    assert torch.equal(result.codes, model(x).codes)


def test_bits_of_the_papers_quantizer():
    assert ResidualVQ(RVQConfig()).bits == 36


def test_empty_codebooks_and_foreign_codes_are_refused():
    with pytest.raises(TasteError, match="codebooks are empty"):
        ResidualVQ(CONFIG).eval()(torch.randn(1, 3, 32))
    model = make()
    for codes in (torch.full((1, 3, 4), 24), torch.zeros(1, 3, 5, dtype=torch.long), torch.full((1, 3, 4), -2)):
        with pytest.raises(TasteError, match="come from another model"):
            model.decode(codes)


def test_a_fingerprint_names_the_codebooks_and_survives_float16():
    model = make()
    name = model.fingerprint
    assert len(name) == 16 and model.half().float().fingerprint == name != make(seed=1).fingerprint


def test_original_names_lose_what_is_never_run_and_get_the_averages_they_lack():
    embed = torch.randn(1, 24, 16)
    theirs = {"layers.0._codebook.embed": embed, "mlps.0.weight": torch.ones(1), "project_in.bias": torch.ones(16)}
    ours = rename_original(theirs)
    assert sorted(ours) == ["layers.0.cluster_size", "layers.0.embed", "layers.0.embed_avg", "project_in.bias"]
    assert torch.equal(ours["layers.0.embed"], embed[0]) and torch.equal(ours["layers.0.embed_avg"], embed[0])
    assert torch.equal(ours["layers.0.cluster_size"], torch.ones(24)) and len(ours["project_in.bias"]) == 16
