"""The language-model stages at tiny size: what is trained, what is hidden, resuming, and that something is learnt."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from fake_codes import make_codes
from safetensors.torch import load_file

from taste_min.cli import main
from taste_min.data import FeatureStore
from taste_min.errors import TasteError
from taste_min.objectives_taslm import SPEECH_START, LanguageObjective, TaslmObjective, start_fusion, start_head
from taste_min.stages import STAGES
from taste_min.taslm_files import ADAPTER_PARTS, build_taslm, load_adapter
from taste_min.taslm_layout import IGNORE
from taste_min.taslm_speech import position_losses
from taste_min.train import Run, build_objective, run_stage

LANGUAGE = [name for name in STAGES if name.startswith(("taslm", "unit_lm"))]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    quantizer = build_objective(STAGES["taslm_token"], "tiny", 0).model.quantizer
    return make_codes(tmp_path_factory.mktemp("codes"), quantizer)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for stage in LANGUAGE:
        words = ["train", stage, "--preset", "tiny", "--data", str(data), "--out", str(folder / stage)]
        assert main(words) == 0
    return folder


def losses(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


@pytest.mark.parametrize("stage", LANGUAGE)
def test_every_stage_learns_and_reports_its_work(runs, stage):
    log = [line for line in losses(runs / stage) if "loss" in line]
    assert log[-1]["loss"] < log[0]["loss"]
    entry = json.loads((runs / stage / "export" / "manifest.json").read_text())["stages"][stage]
    assert entry["positions"] > 0 and entry["flops"] > entry["positions"] and entry["positions_per_second"] > 0
    assert ("codebooks" in entry) is (stage != "unit_lm")
    assert list(entry["sha256"]) == [f"{stage}.safetensors"]


@pytest.mark.parametrize("stage", ["taslm_token", "unit_lm"])
def test_only_lora_and_our_parts_are_trained_and_kept(runs, stage):
    objective = build_objective(STAGES[stage], "tiny", 0)
    trained = [name for name, parameter in objective.named_parameters() if parameter.requires_grad]
    lora = [name for name in trained if "lora_" in name]
    layers = objective.model.config.llm.n_layers
    assert len(lora) == 2 * 7 * layers and not any("lm_head" in name for name in lora)
    assert all(".language_model." not in name for name in set(trained) - set(lora))
    weights = load_file(runs / stage / "export" / f"{stage}.safetensors")
    assert set(weights) == {name.removeprefix("model.") for name in trained}
    assert {name.split(".")[0] for name in weights} <= {*ADAPTER_PARTS, "pad_text", "pad_audio"}
    assert set(torch.load(runs / stage / "checkpoint.pt", weights_only=True)["objective"]) == set(trained)


def test_an_interrupted_run_ends_like_one_that_was_not(runs, data, tmp_path):
    stage, config = STAGES["taslm_token"], STAGES["taslm_token"].settings["tiny"]
    train, dev = FeatureStore(data, "train"), FeatureStore(data, "dev")

    def run(resume: bool) -> Run:
        objective = build_objective(stage, "tiny", 0)
        return Run(stage, "tiny", config, 0, tmp_path, train, dev, Accelerator(cpu=True), objective)

    first = run(False)
    first.prepare()
    lines = []
    for _ in range(4):
        lines.append(first.train_step())
    first.save()
    (tmp_path / "metrics.jsonl").write_text("")
    run_stage(run(True), resume=True, progress=False)
    whole = [line for line in losses(runs / "taslm_token") if "loss" in line]
    resumed = [line for line in losses(tmp_path) if "loss" in line]
    assert [x["loss"] for x in whole] == [x["loss"] for x in lines] + [x["loss"] for x in resumed]


def test_the_divergence_of_an_untouched_adapter_is_zero(data):
    for stage in ("taslm_token", "unit_lm"):
        objective = build_objective(STAGES[stage], "tiny", 0).eval()
        if stage == "taslm_token":  # all of the input is text
            with torch.no_grad():
                objective.model.fuse.weights.copy_(torch.tensor([-60.0, 60.0]))
        else:  # nothing is heard between the words
            objective.load = lambda store, rows, g=None, load=objective.load: without_units(load(store, rows))
        batch = objective.load(FeatureStore(data, "train"), [0, 1, 2], None)
        assert float(objective.loss(batch, "model", 0)[1]["text_kl"]) == pytest.approx(0, abs=1e-5), stage
        with torch.no_grad():
            for name, parameter in objective.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.3)
        assert float(objective.loss(batch, "model", 0)[1]["text_kl"]) > 1e-3


def without_units(batch):
    """The text of a batch of the baseline and one unit after it."""
    text = torch.cat([batch.text_ids, torch.full((len(batch.text_ids), 1), IGNORE)], dim=1)
    units = torch.full_like(text, IGNORE)
    units[:, -1] = 3
    return batch._replace(token_ids=text, units=units, mask=(text >= 0) | (units >= 0))


def test_labels_of_padding_count_for_nothing(data):
    objective = build_objective(STAGES["taslm_token"], "tiny", 0).eval()
    store = FeatureStore(data, "train")
    order = sorted(range(len(store)), key=lambda i: store.rows[i]["n_tokens"])
    short, long = order[0], order[-1]
    both = position_losses(objective.model, objective.load(store, [short, long]))
    alone = position_losses(objective.model, objective.load(store, [short]))
    n = alone.text.shape[1]
    assert n < both.text.shape[1]
    assert torch.equal(both.text[0, n:], torch.zeros_like(both.text[0, n:]))
    torch.testing.assert_close(both.text[0, :n], alone.text[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(both.codes[0, :n], alone.codes[0], atol=1e-5, rtol=0)


def test_what_is_hidden_has_no_influence_and_no_label(data):
    store = FeatureStore(data, "train")
    deaf, blind = (build_objective(STAGES[name], "tiny", 0).eval() for name in ("taslm_text", "taslm_codes"))
    for objective, labels in ((deaf, "taste_labels"), (blind, "text_labels")):
        batch = objective.load(store, [0, 1])
        assert int(getattr(batch, labels).max()) == IGNORE
        loss, numbers = objective.loss(batch, "model", 0)
        assert torch.isfinite(loss) and loss > 0
        assert float(numbers["taste_loss" if objective is deaf else "text_nll"]) == 0
    assert (deaf.load(store, [0]).codes == IGNORE).all() and (blind.load(store, [0]).token_ids[:, 1:] == IGNORE).all()


def test_heads_start_from_the_frequencies():
    model = build_taslm("tiny", "token").eval()
    labels = torch.tensor([[0, 1, 2, 3]] * 9 + [[5, 5, 5, 5]])
    start_head(model, labels)
    taste = model.predict_taste(torch.randn(3, 32))
    assert (taste.codes == torch.tensor([0, 1, 2, 3])).all()
    torch.testing.assert_close(taste.logits.exp().sum(-1), torch.ones(3, 4))
    model = build_taslm("tiny", "embedding").eval()
    start_head(model, labels)
    mean = model.quantizer.embed_codes(labels).mean(0)
    torch.testing.assert_close(model.predict_taste(torch.randn(1, 32)).mean[0], mean)


def test_speech_starts_loud_enough_to_be_heard():
    model = build_taslm("tiny", "token").eval()
    codes = torch.randint(0, 4, (50, 4))
    start_fusion(model, codes)
    shares = model.fuse.weights.softmax(0)
    speech = (shares[0] * model.fuse.linear(model.quantizer.decode(codes))).square().mean().sqrt()
    text = (shares[1] * model.llm.get_input_embeddings().weight).square().mean().sqrt()
    torch.testing.assert_close(speech / text, torch.tensor(SPEECH_START))
    torch.testing.assert_close(model.fuse.weights.data, torch.tensor([-2.0, 2.0]))


@pytest.mark.parametrize("head", ["token", "embedding"])
def test_an_adapter_comes_back(head, runs, data):
    stage = f"taslm_{head}"
    path = runs / stage / "export" / f"{stage}.safetensors"
    trained = build_objective(STAGES[stage], "tiny", 0, [runs / stage]).eval()
    fresh = build_objective(STAGES[stage], "tiny", 0).eval()
    load_adapter(fresh.model, path)
    batch = trained.load(FeatureStore(data, "dev"), [0, 1])
    want, got = position_losses(trained.model, batch), position_losses(fresh.model, batch)
    torch.testing.assert_close(got.text, want.text, atol=2e-2, rtol=0)
    other = build_taslm("tiny", "token" if head == "embedding" else "embedding")
    with pytest.raises(TasteError, match="does not belong"):
        load_adapter(other, path)
    with torch.no_grad():
        fresh.model.quantizer.layers[0].embed.add_(1)
    with pytest.raises(TasteError, match="another quantizer"):
        load_adapter(fresh.model, path)


def test_codes_of_another_quantizer_are_refused(data):
    objective = TaslmObjective("taslm_token", build_taslm("tiny", "token"))
    with torch.no_grad():
        objective.model.quantizer.layers[0].embed.add_(1)
    with pytest.raises(TasteError, match="another quantizer"):
        objective.lengths(FeatureStore(data, "train"))


def test_flops_count_the_frozen_model_only_with_the_divergence(data):
    store = FeatureStore(data, "train")
    objectives = [build_objective(STAGES[name], "tiny", 0) for name in ("taslm_token", "taslm_no_kl")]
    for objective, factor in zip(objectives, (6, 4), strict=True):
        assert isinstance(objective, LanguageObjective)
        config = replace(STAGES["taslm_token"].settings["tiny"], steps=1)
        run = Run(STAGES["taslm_token"], "tiny", config, 0, data, store, store, Accelerator(cpu=True), objective)
        facts = objective.facts(run.order, 3, 2.0)
        weights = sum(p.numel() for p in objective.model.llm.parameters())
        assert facts["flops"] == factor * weights * facts["positions"]
        assert facts["positions_per_second"] == facts["positions"] / 2
