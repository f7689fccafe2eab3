"""Same machine, same seed, same bits; and how much the number of threads may change, against its record."""

import json

import pytest
import torch
from conftest import ROOT
from fake_taste import speech, tiny_taste

from taste_min import repro

RECORD = ROOT / "results" / "full" / "determinism.json"
BAND = {"codes": 0.98, "units": 0.99}  # least agreement between one and two threads


def small_run(folder, seed):
    """A notebook in small: seeded start, a model, what it hears and says, a record."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TASTE_MIN_RESULTS", str(folder))
        run = repro.start("01_encoder_layers", "smoke", seed)
        model = tiny_taste(seed)
        tokens = model.encode(speech(0.5, seed))
        run.metric("embedding", tokens.embeddings.double().sum(), "")
        run.metric("sound", model.decode(tokens, seed=seed).wav.double().square().sum(), "")
        run.metric("draw", torch.rand(()), "")
        run.record()
    return json.loads((folder / "smoke" / "01_encoder_layers.json").read_text())["metrics"]


def test_a_smoke_record_repeats_bit_by_bit(tmp_path):
    first = small_run(tmp_path, 0)
    assert small_run(tmp_path, 0) == first
    other = small_run(tmp_path, 1)
    assert all(other[name] != first[name] for name in first)  # the comparison can fail


def test_threads_change_few_codes():
    record = json.loads(RECORD.read_text())
    assert record["one_thread_twice"] == {"codes": 1, "units": 1}
    for kind, least in BAND.items():
        assert record["one_and_two_threads"][kind] >= least > record["other_words"][kind]
