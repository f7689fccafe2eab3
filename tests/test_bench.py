"""Timing: every stage has a floor, the fastest run counts, and what stands for the original computes the same."""

import json

import pytest
import torch

from taste_min import bench, bench_original, cli
from taste_min.bench_original import compare, fastest, write_units
from taste_min.bench_stages import GROUPS, Sizes, Work, maker, stages
from taste_min.config import tiny
from taste_min.errors import TasteError
from taste_min.unit_decoder import UnitDecoder
from taste_min.unit_sampling import Sampling

CPU = torch.device("cpu")
CEILING = {"flops": 1e9, "bytes_per_second": 1e9}


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_the_fastest_run_counts_and_the_runs_take_turns(monkeypatch):
    now, order = iter([(0, 0), (5, 5), (5, 5), (6, 6), (6, 6), (8, 9), (8, 9), (12, 12)]), []
    monkeypatch.setattr(bench_original, "clock", lambda device: next(now))
    best = fastest({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, CPU)
    assert order == ["a", "b", "a", "b"] and best == {"a": (2, 3), "b": (1, 1)}


def test_a_floor_is_arithmetic_or_memory():
    x = torch.randn(100, 100)
    row = bench.measure(Work("product", lambda: x @ x, tokens=100), 2.0, 1, CPU, CEILING)
    assert row.floor_seconds == pytest.approx(2 * 100**3 / 1e9) and row.limit == "arithmetic"
    assert row.distance == row.seconds / row.floor_seconds and row.real_time_factor == row.seconds / 2
    row = bench.measure(Work("product", lambda: x @ x, 100, read=10**8, spoken=False), 2.0, 1, CPU, CEILING)
    assert row.floor_seconds == pytest.approx(0.1) and row.limit == "memory" and row.real_time_factor is None


def test_every_group_has_its_stages_and_generation_has_two_lengths():
    names = [work.name for work in stages("tiny", 0.5, CPU, list(GROUPS))]
    assert {"log-mel", "encoder", "aggregator", "quantizer", "unit decoder", "flow", "vocoder"} <= set(names)
    assert sum(name.startswith("taslm generation") for name in names) == 2
    assert sum(name.startswith("train") for name in names) == 4
    assert [work.name for work in stages("tiny", 0.5, CPU, ["decoding"])] == ["unit decoder", "flow", "vocoder"]


def test_the_generation_of_a_stage_has_the_length_that_its_name_says():
    for work in stages("tiny", 0.5, CPU, ["joint"]):
        if "generation" in work.name:
            assert len(work.run()[0].token_ids) == work.tokens


def test_what_stands_for_the_original_writes_the_same_units(monkeypatch):
    torch.manual_seed(0)
    decoder, sizes = UnitDecoder(tiny().unit_decoder).eval(), Sizes(tiny(), 1.0, CPU)
    torch.nn.init.constant_(decoder.llm_decoder.bias[-1:], -1e4)  # it never ends by itself
    ids, _, lengths = sizes.text()
    speaker, taste = torch.randn(1, 12), torch.randn(1, sizes.tokens, 32)
    sampling = Sampling(greedy=True, min_units=30, max_units=30)
    ours = decoder.generate(ids, lengths, speaker, taste, sampling=sampling).units[0]
    monkeypatch.setattr(bench_original, "TOP_K", 1)  # one class to draw from: the best
    prompt = decoder.prompts(ids, lengths, speaker, taste).rows[0][None]
    assert torch.equal(write_units(decoder, prompt, 30), ours)
    assert len(set(ours.tolist())) > 5


def test_what_is_called_the_same_is_the_same():
    rows = {(row.stage, row.variant): row for row in compare("tiny", 0.5, 1, CPU)}
    assert rows["flow", "float32"].difference < 1e-4 and rows["vocoder", "float32"].difference < 1e-4
    assert 1e-4 < rows["flow", "int8"].difference < 0.2  # another arithmetic, and it shows
    whole = rows["whole decoder", "float32"]
    assert whole.seconds == pytest.approx(
        sum(rows[stage, "float32"].seconds for stage in ("unit decoder", "flow", "vocoder"))
    )


def test_random_weights_only_where_a_preset_has_none(monkeypatch):
    asked = []
    monkeypatch.setattr("taste_min.bench_stages.Taste.from_pretrained", lambda name: asked.append(name) or FakeTaste())
    maker("tiny"), maker("mini")
    assert asked == ["mini"]


class FakeTaste:
    config = tiny()

    def part(self, name):
        raise AssertionError


def test_the_command_prints_a_table_and_json(capsys, monkeypatch):
    monkeypatch.setattr(bench, "ceilings", lambda device: CEILING)
    command = ["bench", "--preset", "tiny", "--seconds", "0.5", "--runs", "1", "--stages", "decoding"]
    measured, asked = bench.report("tiny", 0.5, 1, ["decoding"]), []
    monkeypatch.setattr(bench, "report", lambda *options: asked.append(options) or measured)
    assert cli.main(command) == 0
    table = capsys.readouterr().out
    assert "unit decoder" in table and "times as fast" in table
    assert cli.main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == measured and asked == [("tiny", 0.5, 1, ["decoding"])] * 2
    assert [row["stage"] for row in report["stages"]] == ["unit decoder", "flow", "vocoder"]
    assert "original" in report["reference"] and report["against_the_original"] and report["load"]
    assert cli.main(["bench", "--seconds", "0"]) == 2
    assert "0.5..30" in capsys.readouterr().err
    with pytest.raises(TasteError):
        bench.command(type("Args", (), {"seconds": 1.0, "runs": 0}))
