"""Damaged and hostile inputs for every reader, what fuzzing found once, and bad readers that it must catch."""

import contextlib
import io
import json
import pickle
import zipfile

import fuzz
import fuzz_inputs as inputs
import numpy as np
import pytest
import soundfile
import torch
from fuzz_files import META, SETTINGS, TOKENS, TRAP, Mine, pickles, tone
from fuzz_readers import Target, archive_of, on_file, settings_of, unpickle
from fuzz_targets import TARGETS
from hypothesis import strategies as st
from safetensors.torch import save

from taste_min import assets, cli
from taste_min.audio import read_audio
from taste_min.corpus import load_manifest
from taste_min.errors import TasteError
from taste_min.golden import load_golden
from taste_min.manifest import read_manifest
from taste_min.released_config import read_settings
from taste_min.released_files import read_tensors
from taste_min.shards import read_shard_rows
from taste_min.speaker import GE2E
from taste_min.tokens import TasteTokens
from taste_min.train import CHECKPOINT, read_checkpoint
from taste_min.transfer import read_swapped
from taste_min.units import MiniUnits


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_input_ends_in_a_result_or_in_one_sentence(target):
    cases, valid = fuzz.run(target, 32 // target.cost, seed=0)
    assert cases >= valid >= (target.name != "speaker encoder")  # a valid one is too large to be among the cases


def leaks(path):
    return json.loads(path.read_text(encoding="utf-8"))["a"]


def says_little(path):
    raise TasteError("KeyError: 'a'")


def runs_code(path):
    with contextlib.suppress(pickle.UnpicklingError):
        pickle.loads(path.read_bytes())


def wastes(path):
    return np.ones(300_000_000 // 8)  # 300 MB


CAUGHT = [
    (on_file("case", leaks), "KeyError|TypeError"),
    (on_file("case", says_little), "not one clear sentence"),
    (on_file("case", wastes), "MB for one small file|MemoryError"),
    (unpickle("case", runs_code), "code in a pickle was run"),
]


@pytest.mark.parametrize(("run", "message"), CAUGHT)
def test_the_property_catches_a_bad_reader(run, message):
    """Each of these readers breaks one rule."""
    evil = pickle.dumps(Mine(TRAP))
    target = Target("bad", st.sampled_from([b"{}", b"[]", evil]), run)
    with pytest.raises(fuzz.Finding, match=message):
        fuzz.run(target, 20, seed=0)


def test_the_property_catches_a_file_outside_the_folder(tmp_path, monkeypatch):
    """An unpacker that believes the names in the archive."""

    def believes(archive, asset, folder):
        with zipfile.ZipFile(archive) as wheel:
            for member in wheel.namelist():
                if not member.startswith(("/", "C:")):
                    path = folder / member
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(wheel.read(member))

    monkeypatch.setattr(assets, "_unpack", believes)
    (tmp_path / "cases").mkdir()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr("../escaped", b"data")
    with pytest.raises(fuzz.Finding, match="outside the folder"):
        archive_of(tmp_path / "cases", ("a.whl", file.getvalue()))


# What fuzzing found, each in its smallest form.


def flac_that_claims(samples: int, rate: int) -> bytes:
    """A FLAC file of a tenth of a second whose header says otherwise."""
    file = io.BytesIO()
    soundfile.write(file, tone(0.1), 16_000, format="FLAC")
    data = bytearray(file.getvalue())
    layout = int.from_bytes(data[18:26], "big") & 0xFF << 36  # channels and bits; 20 bits of rate before, 36 of samples
    data[18:26] = (rate << 44 | layout | samples).to_bytes(8, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (2**35, 655_350, "lasts 14.6 h|unusual rate|not a readable"),
        (655_350 * 3000, 655_350, None),  # 8 GB, were the header believed
        (1600, 17_011, "unusual rate"),  # a prime: the resampling filter would have 272 million taps
    ],
)
def test_headers_that_claim_much(tmp_path, samples, rate, message):
    path = tmp_path / "case.flac"
    path.write_bytes(flac_that_claims(samples, rate))
    with fuzz.clean(Target("audio", None, None)):
        if message is None:
            assert len(read_audio(path, convert=True)) < 1600
        else:
            with pytest.raises(TasteError, match=message):
                read_audio(path, convert=True)


def row(**changes) -> str:
    cells = {"id": "a", "audio": "a.wav", "text": "Hi", "speaker": "b", "split": "dev", "seconds": "1", "rate": "1"}
    cells |= {"style": "plain", "words": "[]", "prosody": '{"rate": [], "pitch": [], "gain": []}'} | changes
    return "\t".join(cells) + "\n" + "\t".join(cells.values()) + "\n"


@pytest.mark.parametrize(
    "content",
    [
        row(text="x" * 200_000).encode(),  # longer than the csv module allows
        row().encode() + b"\xff",  # not UTF-8
        row(seconds="nan").encode(),
        row(words='[["Hi", 1, 0]]').encode(),
        row(words=inputs.DEEP).encode(),
        row().encode() + b"a\ta.wav\n",  # half a line
    ],
)
def test_manifests(tmp_path, content):
    (tmp_path / "manifest.tsv").write_bytes(content)
    for read in (load_manifest, read_manifest):
        with fuzz.clean(Target("manifest", None, None, named=False)), pytest.raises(TasteError, match="manifest.tsv"):
            read(tmp_path)


def test_a_long_range_of_swapped_words_is_not_written_out():
    with fuzz.clean(Target("swapped", None, None)), pytest.raises(TasteError, match="words 0 to 3"):
        read_swapped("0-999999999", 4)


@pytest.mark.parametrize(
    ("changes", "metadata"),
    [
        ({}, {"seconds": 0}),
        ({}, {"n_text_tokens": "4"}),
        ({}, {"words": [META["words"][0]] + [{"text": 1, "start": 0, "end": 1}]}),
        ({"codes": TOKENS["codes"].flatten()[:2]}, {}),
        ({"codes": TOKENS["codes"].float()}, {}),
        ({"embeddings": torch.full((2, 8), torch.nan)}, {}),
    ],
)
def test_tokens_of_the_wrong_kind(tmp_path, changes, metadata):
    path = tmp_path / "case.safetensors"
    path.write_bytes(save(TOKENS | changes, {"taste_tokens": json.dumps(META | metadata)}))
    with pytest.raises(TasteError, match="not a file of TASTE tokens"):
        TasteTokens.load(path)


@pytest.mark.parametrize(
    ("read", "metadata"),
    [
        (TasteTokens.load, {"taste_tokens": inputs.DEEP}),
        (TasteTokens.load, {"taste_tokens": "1"}),
        (read_shard_rows, {"rows": "no JSON", "fingerprint": "f"}),
        (read_shard_rows, {"rows": "[1]", "fingerprint": "f"}),
        (read_shard_rows, {"shard": "[1]"}),
        (read_shard_rows, {"shard": "{}"}),
        (load_golden, {"config": inputs.DEEP}),
        (load_golden, {"config": "[1]"}),
        (MiniUnits.load, {"layer": "x"}),
    ],
)
def test_odd_metadata(tmp_path, read, metadata):
    path = tmp_path / "case.safetensors"
    path.write_bytes(save(TOKENS | {"mean": torch.ones(1), "projection": torch.ones(1, 1)}, metadata))
    with pytest.raises(TasteError, match="case.safetensors"):
        read(path)


def test_units_whose_tables_do_not_fit(tmp_path):
    tensors = {"mean": torch.ones(3), "projection": torch.ones(4, 2), "centroids": torch.ones(5, 2)}
    (tmp_path / "case").write_bytes(save(tensors, {"layer": "-1"}))
    with pytest.raises(TasteError, match="holds no speech units"):
        MiniUnits.load(tmp_path / "case")


@pytest.mark.parametrize("name", ["../outside.safetensors", "/outside.safetensors", 1, "\ud800", "a/b"])
def test_an_index_names_files_of_its_own_folder(tmp_path, name):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (folder / "model.safetensors", tmp_path / "outside.safetensors"):
        path.write_bytes(save({"a": torch.ones(1)}))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(TasteError, match="index.json is damaged"):
        read_tensors(folder, ("",))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("speech_decoder_config", "lsm_weight", "much"),
        ("speech_decoder_config", "llm__dropout_rate", 2),
        ("spoken_lm_config", "loss_weights", "half"),
        ("spoken_lm_config", "delay", True),
        ("text_config", "num_attention_heads", 0),
        ("text_config", "rope_scaling", [1]),
    ],
)
def test_settings_of_the_wrong_kind(tmp_path, section, key, value):
    settings = SETTINGS | {section: SETTINGS[section] | {key: value}}
    with pytest.raises(TasteError, match="^config.json has"):
        settings_of(tmp_path, json.dumps(settings))


def test_settings_nested_without_end(tmp_path):
    (tmp_path / "config.json").write_text(inputs.DEEP)
    with pytest.raises(TasteError, match="config.json is damaged"):
        read_settings(tmp_path)


@pytest.mark.parametrize("content", [b"no pickle", pickle.dumps([1]), pickles(TRAP)[1], pickles(TRAP)[4]])
def test_pickles(tmp_path, content):
    (tmp_path / CHECKPOINT).write_bytes(content)
    for read in (lambda: GE2E.from_file(tmp_path / CHECKPOINT), lambda: read_checkpoint(tmp_path)):
        with pytest.raises(TasteError, match=CHECKPOINT):
            read()
    assert not TRAP.exists()


def test_a_file_that_the_system_refuses_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").touch()
    command = ["train", "flow", "--data", str(tmp_path), "--out", str(tmp_path / "file" / "run")]
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("taste-min: ") and error.count("\n") == 1 and str(tmp_path / "file") in error
