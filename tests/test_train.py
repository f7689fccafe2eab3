"""The training loop at tiny size: same losses after a kill, with two processes, and in every stage something learnt."""

import json
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from fake_corpus import make_features
from other_processes import run_apart, sleep_at, train_as_one_of_two
from safetensors.torch import load_file

from taste_min import features, manifest
from taste_min import train as train_module
from taste_min.cli import main
from taste_min.config import tiny
from taste_min.data import FeatureStore
from taste_min.errors import TasteError
from taste_min.export import load_parts
from taste_min.objectives import TokenizerObjective, start_quantizer
from taste_min.optimizer import average_gradients, learning_rate, make_optimizer
from taste_min.quantizer import ResidualVQ
from taste_min.sharding import POSITION, settle
from taste_min.stages import STAGES, TrainConfig
from taste_min.train import Run, _cut, build_objective, run_stage
from taste_min.units import MiniUnits

SPEECH_STAGES = [name for name in STAGES if not name.startswith(("taslm", "unit_lm"))]  # see test_objectives_taslm.py


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_features(tmp_path_factory.mktemp("corpus") / "features").parent


def train(stage: str, data: Path, out: Path, *more: str) -> int:
    return main(["train", stage, "--preset", "tiny", "--data", str(data), "--out", str(out), *more])


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def curve(folder: Path) -> list[tuple]:
    """Everything but the times."""
    return [(x["step"], *(v for k, v in sorted(x.items()) if k not in ("step", "seconds"))) for x in lines(folder)]


@pytest.fixture(scope="session")
def runs(made_once):
    """The whole curriculum, the flow and the vocoder."""

    def make(folder):
        data = make_features(folder / "corpus" / "features").parent
        for stage in SPEECH_STAGES:
            assert train(stage, data, folder / stage) == 0

    return made_once("runs", make)


@pytest.mark.parametrize("stage", SPEECH_STAGES)
def test_every_stage_logs_evaluates_and_exports(runs, stage):
    steps = STAGES[stage].settings["tiny"].steps
    log = lines(runs / stage)
    assert [x["step"] for x in log if "loss" in x] == list(range(1, steps + 1))
    assert [x["step"] for x in log if "dev" in x][-1] == steps
    entry = json.loads((runs / stage / "export" / "manifest.json").read_text())["stages"][stage]
    assert entry["steps"] == steps and entry["dev"] == log[-1]["dev"] and entry["device"] and entry["commit"]
    for name in entry["sha256"]:
        weights = load_file(runs / stage / "export" / name)
        floats = {w.dtype for w in weights.values() if w.is_floating_point()}
        assert floats == {torch.float16}


def test_the_curriculum_hands_its_weights_on(runs):
    before = torch.load(runs / "no_vq" / "checkpoint.pt", weights_only=True)["objective"]
    objective = build_objective(STAGES["vq"], "tiny", 0, [runs / "no_vq"])
    for name, value in objective.state_dict().items():
        if not name.startswith("quantizer"):
            assert torch.equal(value, before[name]), name
    fresh = build_objective(STAGES["vq"], "tiny", 0)
    assert not torch.equal(fresh.aggregator.layer_norm.bias, objective.aggregator.layer_norm.bias)


def test_text_only_leaves_the_audio_branch_alone_and_no_vq_trains_the_aggregator(runs):
    first = build_objective(STAGES["no_vq"], "tiny", 0, [runs / "text_only"]).state_dict()
    last = torch.load(runs / "no_vq" / "checkpoint.pt", weights_only=True)["objective"]
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    assert {"aggregator.layers.0.encoder_attn.v_proj.weight", "unit_decoder.fusion.weights"} <= moved
    assert "aggregator.embed_tokens.weight" not in moved
    text_only = torch.load(runs / "text_only" / "checkpoint.pt", weights_only=True)["objective"]
    assert not any(name.startswith("aggregator") for name in text_only)


def test_exported_parts_come_back(runs):
    parts = load_parts(runs / "vq" / "export", tiny(), None)
    assert sorted(parts) == ["aggregator", "quantizer", "unit_decoder"]
    state = torch.load(runs / "vq" / "checkpoint.pt", weights_only=True)["objective"]
    for ours, name in (
        (parts["unit_decoder"].llm_decoder.weight, "unit_decoder.llm_decoder.weight"),
        (parts["quantizer"].layers[0].embed, "quantizer.layers.0.embed"),
    ):
        assert torch.equal(ours, state[name].half().float())


def test_a_killed_run_continues_with_the_losses_of_one_that_was_not(runs, data, tmp_path):
    steps = ("--steps", "12", "--init", str(runs / "no_vq"))
    assert train("vq", data, tmp_path / "whole", *steps) == 0
    command = ["train", "vq", "--preset", "tiny", "--data", str(data), *steps]
    process = run_apart(sleep_at, 10, tmp_path / "killed", command)
    metrics, deadline = tmp_path / "killed" / "metrics.jsonl", time.monotonic() + 300
    try:
        while not metrics.is_file() or metrics.read_bytes().count(b"\n") < 7:
            assert process.is_alive() and time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "export").exists()
    assert train("vq", data, tmp_path / "killed", *steps, "--resume") == 0
    whole, killed = curve(tmp_path / "whole"), curve(tmp_path / "killed")
    assert len(whole) == len(killed) == 15  # 12 steps, an evaluation after every 4th
    for ours, theirs in zip(whole, killed, strict=True):
        assert ours == theirs
    assert train("vq", data, tmp_path / "other", "--steps", "1", "--init", steps[-1], "--seed", "1") == 0
    assert curve(tmp_path / "other")[0] != whole[0]  # the comparison can fail


def test_a_resumed_run_drops_what_followed_its_checkpoint_and_damaged_lines(tmp_path):
    path, line = tmp_path / "metrics.jsonl", '{{"step": {}, "loss": 0.1}}\n'.format
    _cut(path, 3)  # killed before the first line
    assert path.read_text() == ""
    path.write_text(line(2) + line(4) + line(3) + line(6)[:9])
    _cut(path, 3)
    assert path.read_text() == line(2) + line(3)
    path.write_bytes(line(1).encode() + b"\xff\n" + line(2).encode())
    _cut(path, 3)
    assert path.read_text() == line(1)


def test_two_processes_give_the_curve_of_one_sharded_or_not(runs, data, tmp_path, capsys):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = (port, data, tmp_path, runs / "text_only")
    processes = [run_apart(train_as_one_of_two, rank, *common) for rank in (0, 1)]
    for process in processes:
        process.join(timeout=300)
        assert process.exitcode == 0
    one = curve(runs / "no_vq")
    for two in (curve(tmp_path / "no_vq"), curve(tmp_path / "sharded")):  # the second was stopped and continued
        assert len(one) == len(two)
        for ours, theirs in zip(one, two, strict=True):
            for x, y in zip(ours, theirs, strict=True):
                assert x == pytest.approx(y, rel=1e-4, abs=1e-6)
    assert one[0][1:] != pytest.approx(one[1][1:], rel=1e-4)  # neighbouring steps would not pass as equal

    for name in ("unit_decoder", "aggregator"):  # and what it exports
        ours, theirs = (
            load_file(path / "export" / f"{name}.safetensors") for path in (runs / "no_vq", tmp_path / "sharded")
        )
        assert all(torch.allclose(ours[key].float(), theirs[key].float(), atol=2e-3) for key in ours)
    start = ("--init", str(runs / "text_only"))
    assert train("no_vq", data, tmp_path / "sharded", "--resume", *start) == 2  # by one process
    assert "with --shard" in capsys.readouterr().err
    assert train("no_vq", data, tmp_path / "alone", "--shard", *start) == 2
    assert "several processes" in capsys.readouterr().err
    assert train("vq", data, tmp_path / "vq", "--steps", "1", "--init", str(tmp_path / "sharded")) == 0

    # Two halves of the rows move the codebooks as all of them do in one process.
    first, *last = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("first0", "last0", "last1"))
    whole = ResidualVQ(replace(tiny().rvq, quantizer_dropout=False)).train()
    whole.load_state_dict(first)
    torch.manual_seed(0)
    rows = torch.randn(6, 20, 32)
    for n in (1, 2):
        whole(rows * (1 + n))
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(last[0][name], value, atol=1e-5, rtol=1e-5)
        assert torch.equal(last[0][name], last[1][name])
    assert not torch.allclose(first["layers.0.embed"], last[0]["layers.0.embed"], atol=1e-5)


def test_a_sharded_checkpoint_survives_a_kill_between_its_last_steps(tmp_path):
    old, new = tmp_path / "checkpoint", tmp_path / "checkpoint.part"
    old.mkdir()
    new.mkdir()
    assert settle(old) and new.is_dir()  # shares without a position are not whole
    (new / POSITION).write_text('{"step": 4}')
    assert settle(old) and not new.exists() and (old / POSITION).is_file()
    assert not settle(tmp_path / "nothing")


def test_losses_fall(runs, data, tmp_path):
    assert (
        train(
            "no_vq", data, tmp_path / "long", "--steps", "40", "--eval-every", "40", "--init", str(runs / "text_only")
        )
        == 0
    )
    log = [x["loss"] for x in lines(tmp_path / "long") if "cross_entropy" in x]
    assert len(log) == 38  # the first two steps have no unit loss
    assert sum(log[-5:]) < sum(log[:5]) - 1.0


def test_learning_rate_warms_up_and_ends_low():
    config = TrainConfig(steps=100, lr=1.0, warmup=10, budget=1)
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[0] == 0.1 and max(rates) == 1.0 and rates.index(1.0) in (9, 10)
    assert rates[100] == pytest.approx(config.final_lr) and rates[55] == pytest.approx(0.51, abs=1e-2)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_fine_tuned_parts_learn_slower():
    objective = TokenizerObjective(tiny(), audio=True, quantize=False)
    optimizer = make_optimizer(objective, TrainConfig(1, 1.0, 1, 1, factors=(("aggregator.", 0.3),)))
    sizes = {group["factor"]: len(group["params"]) for group in optimizer.param_groups}
    trained = [n for n, p in objective.named_parameters() if p.requires_grad]
    assert sizes[0.3] == sum(n.startswith("aggregator.") for n in trained) and sum(sizes.values()) == len(trained)


def test_a_started_quantizer_resembles_its_input():
    torch.manual_seed(0)
    basis = torch.randn(12, 32)
    rows = torch.randn(3000, 12) @ basis + 2.0
    quantizer = ResidualVQ(tiny().rvq)
    start_quantizer(quantizer, rows, 10)
    mask = torch.ones(1, 500, dtype=torch.bool)
    error = (quantizer.eval()(rows[None, :500], mask).quantized - rows[:500]).square().mean() / rows.var()
    assert error < 0.3
    assert quantizer.layers[0].cluster_size.sum() == pytest.approx(300)  # as if one batch had been counted
    plain = ResidualVQ(replace(tiny().rvq, quantizer_dropout=False)).train()
    plain(rows[None, :500])
    assert (plain.eval()(rows[None, :500], mask).quantized - rows[:500]).square().mean() / rows.var() > 0.3


def test_the_adversaries_wait_for_their_step(runs):
    log = [x for x in lines(runs / "vocoder") if "loss" in x]
    assert [("adversary_loss" in x) for x in log] == [False] * 3 + [True] * 3


def test_the_tuned_vocoder_starts_from_vocoder_and_flow_and_leaves_the_flow_alone(runs):
    log = [x for x in lines(runs / "vocoder_flow") if "loss" in x]
    assert all("adversary_loss" in x for x in log)  # from the first step on
    after = torch.load(runs / "vocoder_flow" / "checkpoint.pt", weights_only=True)["objective"]
    first = build_objective(STAGES["vocoder_flow"], "tiny", 0, [runs / "vocoder", runs / "flow"]).state_dict()
    for name in ("vocoder", "flow"):
        before = torch.load(runs / name / "checkpoint.pt", weights_only=True)["objective"]
        assert all(torch.equal(value, first[key]) for key, value in before.items())
    moved = {key.split(".")[0] for key, value in after.items() if not torch.equal(value, first[key])}
    assert moved == {"vocoder", "adversary"}
    assert [p.name for p in (runs / "vocoder_flow" / "export").glob("*.safetensors")] == ["vocoder.safetensors"]


def test_averaged_weights_are_used_for_export_only(data, tmp_path):
    store = FeatureStore(data / "features", "train")
    config = replace(STAGES["flow"].settings["tiny"], ema_decay=0.9)
    objective = build_objective(STAGES["flow"], "tiny", 0)
    run = Run(STAGES["flow"], "tiny", config, 0, tmp_path, store, store, Accelerator(cpu=True), objective)
    run_stage(run, resume=False, progress=False)
    own = objective.flow.encoder_proj.weight.clone()
    with run.averaged_weights():
        averaged = objective.flow.encoder_proj.weight.clone()
    assert torch.equal(objective.flow.encoder_proj.weight, own) and not torch.equal(own, averaged)
    assert torch.equal(averaged, run.ema["flow.encoder_proj.weight"])


def test_one_process_needs_no_messages():
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    average_gradients([parameter], Accelerator(cpu=True))
    assert torch.equal(parameter.grad, torch.ones(2))


def test_exported_parts_are_a_start_too(runs, data, tmp_path, capsys):
    exported = load_file(runs / "vq" / "export" / "unit_decoder.safetensors")
    objective = build_objective(STAGES["vq"], "tiny", 0, [runs / "vq" / "export"])
    for name, value in objective.unit_decoder.state_dict().items():
        assert torch.equal(value, exported[name].float()), name
    fresh = build_objective(STAGES["vq"], "tiny", 0)
    for name, value in objective.aggregator.state_dict().items():  # its export is not what it was in training
        assert torch.equal(value, fresh.aggregator.state_dict()[name]), name
    assert "started from the parts in export; not taken:" in capsys.readouterr().out
    assert train("flow", data, tmp_path / "flow", "--steps", "1", "--init", str(runs / "flow" / "export")) == 0
    manifest = json.loads((tmp_path / "flow" / "export" / "manifest.json").read_text())
    assert manifest["stages"]["flow"]["started_from"] == ["export"]
    with pytest.raises(TasteError, match="neither a run nor exported parts"):
        build_objective(STAGES["flow"], "tiny", 0, [runs / "vq" / "export"])
    with pytest.raises(TasteError, match="no checkpoint"):
        build_objective(STAGES["flow"], "tiny", 0, [tmp_path])


def test_bfloat16_is_used_only_where_it_is_fast(monkeypatch):
    run = SimpleNamespace(config=SimpleNamespace(bfloat16=True), accelerator=Accelerator(cpu=True))
    for fast in (True, False):
        monkeypatch.setattr(train_module, "bfloat16_is_fast", lambda device, fast=fast: fast)
        with Run.autocast(run):
            assert torch.is_autocast_enabled("cpu") is fast
    run.config.bfloat16 = False
    monkeypatch.setattr(train_module, "bfloat16_is_fast", lambda device: True)
    with Run.autocast(run):
        assert not torch.is_autocast_enabled("cpu")


def test_wrong_starts_are_refused(runs, data, tmp_path, capsys):
    assert train("no_vq", data, tmp_path / "no_vq") == 2  # text_only was not trained beside it
    assert "no checkpoint" in capsys.readouterr().err
    assert train("text_only", data, runs / "text_only") == 2
    assert "--resume" in capsys.readouterr().err
    assert train("text_only", data, runs / "text_only", "--resume", "--lr", "1") == 2
    assert "another lr" in capsys.readouterr().err
    assert train("units", data, tmp_path / "units") == 2
    assert "must be mini" in capsys.readouterr().err
    config = replace(STAGES["flow"].settings["tiny"], micro_batches=3)
    with pytest.raises(TasteError, match="micro-batches"):
        store = FeatureStore(data / "features", "train")
        objective = build_objective(STAGES["flow"], "tiny", 0)
        Run(STAGES["flow"], "tiny", config, 0, tmp_path, store, store, _Two(), objective)


def test_features_are_cached_with_the_units_beside_them_or_those_that_are_named(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(MiniUnits, "load", asked.append)
    monkeypatch.setattr(features.FeatureExtractor, "mini", lambda units, layers: None)
    monkeypatch.setattr(manifest, "read_manifest", lambda folder: [])
    command = ["train", "features", "--data", str(tmp_path), "--out", str(tmp_path / "features")]
    assert main(command) == 0 and main([*command, "--init", str(tmp_path / "other")]) == 0
    assert asked == [tmp_path / name / "units.safetensors" for name in ("units", "other")]


class _Two:
    num_processes, process_index = 2, 0
    device = torch.device("cpu")
