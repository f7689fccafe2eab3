"""decode, resynth and swap on the command line, with a tiny random model."""

import json

import pytest
import soundfile
import torch
from fake_taste import TEXT, speech, tiny_taste, tokens_of

from taste_min import cli
from taste_min.audio import SAMPLE_RATE, read_audio, write_audio
from taste_min.tokenizer import Taste


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Recordings a.wav and b.wav, tokens a.safetensors and b.safetensors, and a model that is quick to load."""
    taste = tiny_taste()
    monkeypatch.setattr(Taste, "from_pretrained", lambda name: taste)
    for seed, name in enumerate("ab"):
        write_audio(tmp_path / f"{name}.wav", speech(seed=seed), SAMPLE_RATE)
        taste.encode(read_audio(tmp_path / f"{name}.wav")).save(tmp_path / f"{name}.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> int:
    return cli.main(list(words))


def wav(name: str) -> torch.Tensor:
    return torch.from_numpy(soundfile.read(name, dtype="float32")[0])


@pytest.fixture
def fails(capsys):
    def check(match: str, *words: str) -> None:
        assert run(*words) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1
        assert match in captured.err

    return check


def test_decode_writes_what_the_model_says(folder, capsys):
    assert run("decode", "a.safetensors", "--out", "out.wav", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["text"] == TEXT and report["out"] == "out.wav" and report["ended"] in (True, False)
    info = soundfile.info("out.wav")
    assert info.samplerate == report["sample_rate"] == 22050 and info.channels == 1
    assert info.duration == pytest.approx(report["seconds"], abs=1e-3)
    assert not list(folder.glob("*.part*"))
    assert run("decode", "a.safetensors", "--out", "out.flac") == 0
    assert soundfile.info("out.flac").format == "FLAC"
    assert "out.flac" in capsys.readouterr().out


def test_resynth_of_a_recording_is_encode_and_decode(folder):
    assert run("resynth", "a.wav", "--out", "one.wav") == 0
    assert run("decode", "a.safetensors", "--out", "two.wav") == 0
    assert torch.equal(wav("one.wav"), wav("two.wav"))


def test_options_are_heard(folder):
    assert run("resynth", "a.wav", "--out", "one.wav") == 0
    one = wav("one.wav")
    for option in (("--seed", "1"), ("--text-only",), ("--speaker", "b.wav"), ("--text", "more tea")):
        assert run("resynth", "a.wav", "--out", "two.wav", "--force", *option) == 0
        two = wav("two.wav")
        assert one.shape != two.shape or not torch.equal(one, two), option


def test_a_speaker_comes_from_a_recording_or_its_tokens(folder):
    for name, speaker in (("one.wav", "b.wav"), ("two.wav", "b.safetensors")):
        assert run("decode", "a.safetensors", "--out", name, "--speaker", speaker) == 0
    assert torch.equal(wav("one.wav"), wav("two.wav"))


def test_swap_takes_the_sound_of_the_named_words(folder, capsys, monkeypatch):
    host, donor = tokens_of(TEXT, seed=1), tokens_of(f"do {TEXT}", seed=2)
    host.save("host.safetensors"), donor.save("donor.safetensors")
    taste, spoken = Taste.from_pretrained("mini"), []
    decode = taste.decode
    monkeypatch.setattr(taste, "decode", lambda tokens, *a, **k: spoken.append(tokens) or decode(tokens, *a, **k))
    files, out = ("host.safetensors", "donor.safetensors"), ("--out", "swapped.wav", "--json", "--force")
    assert run("swap", *files, "--words", "1,2", "--donor-words", "2,3", *out) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["swapped"] == [1, 2] and report["words"] == TEXT.split()
    assert torch.equal(spoken[0].codes, host.swap(donor, [1, 2], [2, 3]).codes)
    assert not torch.equal(spoken[0].codes, host.codes)
    assert torch.allclose(wav("swapped.wav"), decode(spoken[0]).wav, atol=1e-4)
    assert run("swap", "a.wav", "b.safetensors", "--words", "1", *out) == 0


def test_nothing_is_overwritten_without_force(folder, fails, capsys):
    (folder / "out.wav").write_text("mine")
    fails("exists already; add --force", "decode", "a.safetensors", "--out", "out.wav")
    fails("exists already; add --force", "encode", "a.wav", "-o", "b.safetensors")
    assert (folder / "out.wav").read_text() == "mine"
    assert run("decode", "a.safetensors", "--out", "out.wav", "--force") == 0
    assert run("encode", "a.wav", "-o", "b.safetensors", "--force") == 0
    assert (folder / "a.safetensors").read_bytes() == (folder / "b.safetensors").read_bytes()


def test_bad_input_ends_in_one_sentence(folder, fails):
    (folder / "text.wav").write_text("I am a text file.")
    (folder / "text.safetensors").write_text("I am a text file.")
    out = ("--out", "out.wav")
    fails("must end with .wav", "decode", "a.safetensors", "--out", "out.xyz")
    fails("no folder nowhere", "decode", "a.safetensors", "--out", "nowhere/out.wav")
    fails("use `taste-min resynth`", "decode", "a.wav", *out)
    fails("not a file of TASTE tokens", "decode", "text.safetensors", *out)
    fails("not a readable audio file", "resynth", "text.wav", *out)
    fails("not a readable audio file", "decode", "a.safetensors", "--speaker", "text.wav", *out)
    fails("separated by commas", "swap", "a.wav", "b.wav", "--words", "1;2", *out)
    fails("no word 9", "swap", "a.wav", "b.wav", "--words", "9", *out)
    fails("choose words that agree", "swap", "a.wav", "b.wav", "--words", "0", "--donor-words", "1", *out)
    Taste.from_pretrained("mini").vocoder = None
    fails("has no vocoder", "resynth", "a.wav", *out)
    assert not (folder / "out.wav").exists()
