"""Every tensor of the released checkpoints is accounted for, in both directions, on names, shapes and types."""

import json
from argparse import Namespace
from dataclasses import replace

import pytest
import torch

from taste_min import config, parity
from taste_min.errors import TasteError
from taste_min.golden import load_golden
from taste_min.released_account import FINGERPRINTS, account, fingerprint, full_size
from taste_min.released_config import ROPE, taslm_config, taste_config
from taste_min.released_keys import UNREAD, read_keys, to_original, to_ours

LM_HEAD = "spoken_lm.language_model.base_model.model.lm_head.weight"
LISTS = {  # tensors and numbers of each list
    "released_taste_keys.tsv": (1252, 2_460_231_689),
    "released_voice_generator_keys.tsv": (1412, 125_335_343),
}


@pytest.mark.parametrize("name", sorted(LISTS))
def test_every_released_tensor_is_accounted_for(parity_dir, name):
    found = account(parity_dir / name)
    assert found.missing == [] and found.unexpected == [] and found.ok
    assert (len(found.matched), found.numbers) == LISTS[name]
    assert len(found.unread) == (54 if "taste" in name else 0)  # three networks of nine layers, weight and bias each


@pytest.mark.parametrize("change", ["a tensor less", "a tensor more", "another shape", "another type"])
def test_an_account_notices(parity_dir, tmp_path, change):
    lines = (parity_dir / "released_voice_generator_keys.tsv").read_text().splitlines()
    name, shape, dtype = lines[7].split("\t")
    changed = {
        "a tensor less": [],
        "a tensor more": [lines[7], "flow.decoder.estimator.extra.weight\t(3, 4)\ttorch.float32"],
        "another shape": [f"{name}\t(7,)\t{dtype}"],
        "another type": [f"{name}\t{shape}\ttorch.float16"],
    }[change]
    path = tmp_path / "list.tsv"
    path.write_text("\n".join(lines[:7] + changed + lines[8:]))
    found = account(path)
    assert not found.ok
    assert bool(found.missing) == (change != "a tensor less")
    assert bool(found.unexpected) == (change != "a tensor more")
    assert ("missing" in str(found)) == bool(found.missing)


def test_an_account_wants_a_list(tmp_path):
    with pytest.raises(TasteError, match="no list of tensors"):
        account(tmp_path / "none.tsv")
    for text in ("one two three", "flow.a\t(x)\ttorch.float32", "flow.a\t(1,)\ttorch.flat"):
        (tmp_path / "list.tsv").write_text(text)
        with pytest.raises(TasteError, match="not a list of tensors"):
            account(tmp_path / "list.tsv")
    (tmp_path / "list.tsv").write_text("other.a\t(1,)\ttorch.float32")
    with pytest.raises(TasteError, match="no tensor of an original"):
        account(tmp_path / "list.tsv")


def test_released_shapes_give_the_sizes_of_the_paper(parity_dir):
    parts = to_ours({key: value for name in LISTS for key, value in read_keys(parity_dir / name).items()})
    assert replace(taste_config(parts, {}), name="paper") == config.paper()
    settings = {
        "spoken_lm_config": {"delay": 1, "out_llm_module": "continue_latent_linear_last"},
        "text_config": {"rope_theta": 5e5, "rms_norm_eps": 1e-5, "max_position_embeddings": 131072},
    }
    settings["text_config"]["rope_scaling"] = {"rope_type": "llama3"} | ROPE
    found = taslm_config(parts, settings)
    assert found.round_rope and replace(found, name="paper", round_rope=False) == config.taslm_paper()


@pytest.mark.parametrize(
    "name, prefix",
    [
        ("audio_tower", "audio_tower."),
        ("rvq", "audio_tower.vq."),
        ("speech_decoder", "speech_decoder."),
        ("flow", "flow."),
        ("hift", "hift."),
        ("slm_continue_latent_linear_last", "spoken_lm."),
        ("slm_linear_last", "spoken_lm."),
        ("slm_multi_linear_last", "spoken_lm."),
    ],
)
def test_original_names_survive_the_way_to_us_and_back(parity_dir, name, prefix):
    weights = load_golden(parity_dir / f"{name}.safetensors").weights
    theirs = {prefix + key: value for key, value in weights.items() if not key.startswith(("ref.", "inv_freq"))}
    if prefix == "spoken_lm.":
        theirs = {key.replace("spoken_lm.rvq.", "audio_tower.vq.rvq."): value for key, value in theirs.items()}
    back = to_original(to_ours(theirs))
    dropped, added = theirs.keys() - back.keys(), back.keys() - theirs.keys()
    assert {key.split(".")[-1] for key in dropped} <= ({"b_logvar"} if name == "slm_multi_linear_last" else set())
    assert all(key.startswith(UNREAD) or key == LM_HEAD for key in added)
    assert all(torch.equal(back[key], theirs[key]) for key in theirs.keys() & back.keys())


def test_the_parity_command_reports_the_account(parity_dir, tmp_path, capsys):
    for name in ("hift.safetensors", "released_voice_generator_keys.tsv"):
        (tmp_path / name).symlink_to(parity_dir / name)
    assert parity.command(Namespace(folder=str(tmp_path), json=False)) == 0
    assert "1412 tensors with 125,335,343 numbers match" in capsys.readouterr().out
    assert parity.command(Namespace(folder=str(tmp_path), json=True)) == 0
    assert json.loads(capsys.readouterr().out)["released"][0]["matched"] == 1412


@pytest.mark.parametrize("name", sorted(FINGERPRINTS))
def test_without_the_lists_a_fingerprint_stands_for_them(parity_dir, name):
    tensors = read_keys(parity_dir / f"released_{name}_keys.tsv")
    assert fingerprint(tensors) == FINGERPRINTS[name] == fingerprint(full_size(name))
    first, *rest = tensors
    assert fingerprint({key: tensors[key] for key in rest}) != FINGERPRINTS[name]
    assert fingerprint(tensors | {first: tensors[first].double()}) != FINGERPRINTS[name]
    assert fingerprint(tensors | {first: tensors[first].flatten()[:1]}) != FINGERPRINTS[name]
