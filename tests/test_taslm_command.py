"""continue, say and score on the command line, with tiny random models."""

import json

import pytest
import soundfile
import torch
from fake_taste import TEXT, letters, speech, tiny_taste

from taste_min import cli
from taste_min.audio import SAMPLE_RATE, read_audio, write_audio
from taste_min.taslm import Taslm
from taste_min.taslm_files import build_taslm
from taste_min.tokenizer import Taste


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A recording, its tokens, and models that are quick to load."""
    taste = tiny_taste()
    torch.manual_seed(0)
    model = build_taslm("tiny", "token").eval()
    model.tokenizer = letters()
    monkeypatch.setattr(Taste, "from_pretrained", lambda name: taste)
    monkeypatch.setattr(Taslm, "from_pretrained", lambda name: model)
    write_audio(tmp_path / "a.wav", speech(), SAMPLE_RATE)
    taste.encode(read_audio(tmp_path / "a.wav")).save(tmp_path / "a.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_continue_speaks_new_words_after_the_prompt(folder, capsys):
    words = ("continue", "a.safetensors", "--words", "1", "--seed", "3", "--json")
    assert cli.main([*words, "--out", "out.wav"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["prompt"] == TEXT and report["text"] and report["model"] == "mini-token"
    assert soundfile.info("out.wav").duration == pytest.approx(report["seconds"], abs=1e-3)
    assert cli.main([*words, "--out", "both.wav", "--with-prompt"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == f"{TEXT} {report['text']}"


def test_say_speaks_a_text_in_a_voice(folder, capsys):
    assert cli.main(["say", "some tea", "--speaker", "a.wav", "--out", "out.wav", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["words"] == ["some", "tea"]
    assert cli.main(["say", " ", "--speaker", "a.wav", "--out", "new.wav"]) == 2
    assert "no words" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["say", "some tea", "--out", "new.wav"])


def test_score_names_every_word(folder, capsys):
    assert cli.main(["score", "a.wav", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["word"] for row in report["words"]] == TEXT.split()
    assert all(row["code_nll"] > 0 for row in report["words"]) and report["text_nll"] > 0
    assert cli.main(["score", "a.wav"]) == 0
    assert "nats per token" in capsys.readouterr().out


def test_existing_files_are_kept_and_bad_options_explained(folder, capsys):
    (folder / "out.wav").touch()
    assert cli.main(["continue", "a.wav", "--out", "out.wav"]) == 2
    assert "--force" in capsys.readouterr().err
    assert cli.main(["continue", "a.wav", "--out", "new.wav", "--top-p", "2"]) == 2
    assert "top_p" in capsys.readouterr().err
