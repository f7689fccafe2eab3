"""The command line: exit codes, one-sentence errors, JSON."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from taste_min import assets, cli
from taste_min.tokenizer import Taste


def bad_files(folder):
    """The recordings that people really hand over, by name."""
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("I am a text file.")
    rate = 16_000
    speech = (0.1 * np.random.default_rng(0).normal(size=rate)).astype("float32")
    soundfile.write(folder / "nan.wav", np.where(np.arange(rate) == 99, np.nan, speech), rate, subtype="FLOAT")
    soundfile.write(folder / "8khz.wav", speech, 8_000)
    soundfile.write(folder / "48khz_stereo.wav", np.stack([speech, speech], 1), 48_000)
    soundfile.write(folder / "silence.flac", np.zeros(rate, "int16"), rate)
    soundfile.write(folder / "days.flac", np.zeros(25 * 3600 * 100, "int16"), 100)
    names = ["empty.wav", "text.wav", "nan.wav", "8khz.wav", "48khz_stereo.wav", "silence.flac", "days.flac"]
    return [*names, "not_there.wav"]


def test_bad_recordings_end_in_one_sentence_and_exit_code_2(tmp_path, capsys):
    for name in bad_files(tmp_path):
        assert cli.main(["encode", str(tmp_path / name)]) == 2, name
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert captured.err.startswith("taste-min: ")
        assert name in captured.err


def test_no_traceback_in_a_real_process():
    command = [sys.executable, "-m", "taste_min.cli", "fetch", "modle"]  # one that needs no torch
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("taste-min: There is no asset 'modle'") and done.stderr.count("\n") == 1


def test_parity_on_a_folder_without_golden_files(tmp_path, capsys):
    assert cli.main(["parity", str(tmp_path)]) == 2
    assert "no .safetensors files" in capsys.readouterr().err


@pytest.mark.assets
def test_encode_prints_json_and_writes_tokens(tmp_path, capsys, mini_taste, monkeypatch):
    monkeypatch.setattr(Taste, "from_pretrained", lambda name: mini_taste)
    clip = sorted(assets.fetch("librivox").glob("*.wav"))[1]
    assert cli.main(["encode", str(clip), "--json", "-o", str(tmp_path / "a.safetensors")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [word["word"] for word in report["words"]] == report["text"].split()
    assert (tmp_path / "a.safetensors").is_file()


@pytest.mark.assets
def test_a_recording_without_words(capsys, mini_taste, monkeypatch):
    monkeypatch.setattr(Taste, "from_pretrained", lambda name: mini_taste)
    clip = sorted(assets.fetch("librivox").glob("*.wav"))[1]
    assert cli.main(["encode", str(clip), "--text", " "]) == 2
    assert "no words" in capsys.readouterr().err
