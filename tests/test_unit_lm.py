"""The baseline on interleaved units: the order of the two streams, and what may influence what."""

import torch

from taste_min.config import taslm_tiny
from taste_min.llama import build_llm
from taste_min.taslm_layout import IGNORE
from taste_min.unit_lm import TEXT_CHUNK, UNIT_CHUNK, UnitLm, collate_units, interleave


def make() -> UnitLm:
    torch.manual_seed(0)
    config = taslm_tiny()
    return UnitLm(config, 64, build_llm(config.llm)).eval()


def test_streams_alternate_and_nothing_is_lost():
    text, units = torch.arange(7), torch.arange(60)
    token_ids, sounds = interleave(text, units.repeat_interleave(2), sos_id=100)
    assert ((token_ids >= 0) ^ (sounds >= 0)).all()
    assert token_ids[token_ids >= 0].tolist() == [100, *range(7)] and sounds[sounds >= 0].tolist() == list(range(60))
    kinds = (token_ids >= 0).tolist()
    assert kinds[: 1 + TEXT_CHUNK + UNIT_CHUNK + TEXT_CHUNK] == (
        [True] * (1 + TEXT_CHUNK) + [False] * UNIT_CHUNK + [True] * TEXT_CHUNK
    )
    assert not any(kinds[-8:])  # what is left of the longer one


def test_padding_changes_nothing_and_the_future_is_unknown():
    model = make()
    long = (torch.arange(9), torch.arange(50) % 64)
    short = (torch.arange(20, 24), torch.arange(30, 48))
    together, alone = (model(collate_units(pairs, 100), kl=False) for pairs in ([long, short], [short]))
    n = alone.text_nll.shape[1]
    torch.testing.assert_close(together.text_nll[1, :n], alone.text_nll[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(together.unit_nll[1, :n], alone.unit_nll[0], atol=1e-5, rtol=0)
    assert (together.text_nll[1, n:] == 0).all() and (together.unit_nll[1, n:] == 0).all()
    other = long[1].clone()
    other[40] = 63
    before, after = (model(collate_units([(long[0], units)], 100), kl=False) for units in (long[1], other))
    place = (collate_units([(long[0], other)], 100).units[0] == 63).nonzero()[0, 0]
    assert torch.equal(before.unit_nll[0, : place - 1], after.unit_nll[0, : place - 1])
    assert (before.unit_nll[0, place:] != after.unit_nll[0, place:]).any()


def test_losses_are_means_over_their_own_positions():
    model = make()
    batch = collate_units([(torch.arange(9), torch.arange(50) % 64), (torch.arange(4), torch.arange(10))], 100)
    out = model(batch, kl=False)
    n_text, n_units = 13, int((batch.units >= 0).sum())
    torch.testing.assert_close(out.text_ce, out.text_nll.sum() / n_text)
    torch.testing.assert_close(out.unit_ce, out.unit_nll.sum() / n_units)
    assert int((batch.text_ids == IGNORE).sum()) == 5
