"""A full disk, a kill in the middle, other clocks and languages: what was there stays, and it ends in one sentence."""

import contextlib
import os
import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest
import soundfile
import torch
from conftest import ROOT
from fake_corpus import fake_features
from fake_taste import speech, tiny_taste, tokens_of

from taste_min import cli
from taste_min.audio import write_audio
from taste_min.corpus_files import write_recording
from taste_min.errors import TasteError
from taste_min.evaluate_command import write_json
from taste_min.export import write_parts
from taste_min.files import read_records, to_lines, write_whole
from taste_min.shards import write_shard
from taste_min.tokenizer import Taste
from taste_min.train import Run
from taste_min.units import MiniUnits, cepstra


@contextlib.contextmanager
def full_disk(n_bytes: int = 600):
    """No file can grow beyond so many bytes; the system answers a write as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def checkpoint(path):
    weights = SimpleNamespace(state_dict=lambda: {"weight": torch.ones(9999)})
    Run.save(
        SimpleNamespace(
            folder=path.parent,
            sharded=False,
            identity={},
            step=1,
            seconds=1.0,
            objective=weights,
            optimizers={},
            ema={},
        )
    )


NOISE = torch.randn(9999, generator=torch.Generator().manual_seed(0)) / 9
WRITERS = {
    "any.txt": lambda path: write_whole(path, "x" * 9999),
    "speech.wav": lambda path: write_audio(path, NOISE),
    "tokens.safetensors": lambda path: tokens_of("big bear").save(path),
    "features.safetensors": lambda path: write_shard(path, [{"id": "u"}], [fake_features(0, 4, 60)], "x"),
    "flow.safetensors": lambda path: write_parts(path.parent, {"flow": torch.nn.LayerNorm(999)}),
    "units.safetensors": lambda path: MiniUnits(cepstra, torch.zeros(39), torch.eye(39), NOISE[:390].view(-1, 39)).save(
        path
    ),
    "result.json": lambda path: write_json(path, {"rows": ["x" * 9999]}),
    "recording.flac": lambda path: write_recording(path, NOISE.numpy(), 22_050),
    "checkpoint.pt": checkpoint,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_what_was_there(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    before = path.read_bytes()
    assert len(before) > 600
    # `fill` turns the errors of the last kind into sentences, the command line those of the first
    with full_disk(), pytest.raises((OSError, TasteError, soundfile.LibsndfileError)):
        WRITERS[name](path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [name] or name == "recording.flac"
    WRITERS[name](path)
    assert path.read_bytes() == before or name == "checkpoint.pt"


def test_a_full_disk_ends_a_command_in_one_sentence(tmp_path, monkeypatch, capsys):
    taste = tiny_taste()
    monkeypatch.setattr(Taste, "from_pretrained", lambda name: taste)
    write_audio(tmp_path / "a.wav", speech(0.5), 16_000)
    for name in ("b.safetensors", "b.wav"):
        command = ["encode", "a.wav", "-o", name] if name == "b.safetensors" else ["resynth", "a.wav", "-o", name]
        monkeypatch.chdir(tmp_path)
        with full_disk():
            assert cli.main(command) == 2
        error = capsys.readouterr().err
        assert name in error and "cannot be" in error and error.count("\n") == 1
        assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_records_are_read_up_to_the_first_damage(tmp_path):
    path, records = tmp_path / "records", [{"a": 1}, {"b": "ü"}]
    path.write_text(to_lines(records) + '{"c')
    assert read_records(path) == records
    for damage in ("[1]\n", "nonsense\n", "[" * 100_000 + "\n", "\n"):
        path.write_text(to_lines(records[:1]) + damage + to_lines(records[1:]))
        assert read_records(path) == records[:1]


LOCALES = [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "tr_TR.UTF-8", "TZ": "Pacific/Kiritimati"},
]
READS_AND_WRITES = """
import sys
from pathlib import Path
from types import SimpleNamespace
from taste_min.files import write_whole
from taste_min.manifest import read_rows
rows = read_rows(Path(sys.argv[1]), lambda row: SimpleNamespace(text=row["text"].lower(), seconds=1.0))
write_whole(sys.argv[2], rows[0].text)
"""


@pytest.mark.parametrize("language", LOCALES, ids=["C", "Turkish"])
def test_languages_and_time_zones_change_nothing(tmp_path, language):
    (tmp_path / "manifest.tsv").write_text("text\nIĞDIR ist schön\n", encoding="utf-8")
    written = []
    for name, environment in (("here", {}), ("there", language)):
        command = [sys.executable, "-c", READS_AND_WRITES, str(tmp_path / "manifest.tsv"), str(tmp_path / name)]
        subprocess.run(command, check=True, env=os.environ | environment | {"PYTHONPATH": str(ROOT)})
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1] and "schön".encode() in written[0]


def test_text_files_are_opened_as_utf_8_and_nobody_asks_the_clock():
    """A language or a clock of the machine cannot change what is read, written or thought fresh."""
    sources = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "taste_min").glob("*.py")}
    for name, text in sources.items():
        for call in (".read_text()", "time.time(", "datetime", "st_mtime"):
            assert call not in text, name
