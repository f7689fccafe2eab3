"""`taste-min prepare` on tiny trees: what training reads is right, and nothing is lost without a word."""

import csv
import json

import numpy as np
import pytest
import soundfile
import torch
from corpus_trees import Here, contents, emilia_files, emilia_records, librispeech, libritts, write_tar
from torchaudio.functional import resample

from taste_min import cli, corpus_files
from taste_min.audio import VOCODER_RATE, read_audio
from taste_min.corpora import Source
from taste_min.errors import TasteError
from taste_min.features import read_manifest, shift_of, shifted
from taste_min.prepare import COLUMNS, first_hours, prepare


@pytest.fixture
def no_processes(monkeypatch):
    monkeypatch.setattr(corpus_files, "ProcessPoolExecutor", Here)


def reasons(out):
    return dict(line.split("\t") for line in (out / "rejected.txt").read_text().splitlines())


def test_librispeech_becomes_what_training_reads(tmp_path, no_processes):
    made, out = librispeech(tmp_path), tmp_path / "out"
    summary = prepare("librispeech", tmp_path, out, progress=False)
    rows = read_manifest(out)
    assert {row.id for row in rows} | set(reasons(out)) == set(made) and len(rows) >= 7
    header = next(csv.reader((out / "manifest.tsv").open(), delimiter="\t"))
    assert header == list(COLUMNS)
    for row in rows:
        wav = read_audio(row.audio, VOCODER_RATE)  # raises unless it is mono at 22.05 kHz
        assert row.seconds == pytest.approx(len(wav) / VOCODER_RATE, abs=1e-3)
        assert [word for word, _, _ in row.words] == row.text.split()
        times = [t for _, start, end in row.words for t in (start, end)]
        assert times == sorted(times) and times[0] >= 0 and times[-1] <= row.seconds + 0.01 and row.words
        original = resample(resample(made[row.id][0], 22_050, 16_000), 16_000, 22_050)[: len(wav)]
        assert torch.corrcoef(torch.stack([wav[: len(original)], original]))[0, 1] > 0.999
    other = made[rows[0].id][0][:20_000], read_audio(rows[1].audio, VOCODER_RATE)[:20_000]
    assert torch.corrcoef(torch.stack(other))[0, 1] < 0.5  # the check can fail
    assert summary["utterances"] == len(rows) and set(summary["hours_by_split"]) == {"train", "dev", "test"}
    assert summary["hours"] == pytest.approx(sum(row.seconds for row in rows) / 3600, abs=1e-3)


def test_libritts_and_emilia_keep_case_and_punctuation(tmp_path, no_processes):
    libritts(tmp_path / "tts")
    records = emilia_records(3)
    write_tar(tmp_path / "emilia" / "EN" / "EN-B000000.tar", emilia_files(records))
    for name, folder in (("libritts", tmp_path / "tts"), ("emilia", tmp_path / "emilia")):
        prepare(name, folder, tmp_path / "both", progress=False)  # two corpora may share a folder
    rows = {row.id: row for row in read_manifest(tmp_path / "both")}
    assert len(rows) == 7
    for key, _, said in records:
        assert rows[key].text == said["text"].strip() and rows[key].speaker == said["speaker"]
        assert rows[key].seconds == pytest.approx(said["duration"], abs=0.1)  # mp3 pads a little
    texts = {path.name.split(".")[0]: path.read_text() for path in tmp_path.rglob("*.normalized.txt")}
    assert {id_: row.text for id_, row in rows.items() if id_ in texts} == texts


def test_what_cannot_be_used_is_named_with_the_reason_and_not_tried_again(tmp_path, no_processes, monkeypatch):
    made, out = librispeech(tmp_path), tmp_path / "out"
    files = {path.stem: path for path in tmp_path.rglob("*.flac")}
    names = dict(zip(("noise", "long", "damaged", "empty", "silent", "low", "cut"), sorted(made), strict=False))
    paths = {fault: files[id_] for fault, id_ in names.items()}
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000 * 40)
    soundfile.write(paths["noise"], noise[:8_000], 16_000)  # too short for any words
    soundfile.write(paths["long"], noise, 16_000)
    paths["damaged"].write_bytes(b"I am a text file.")
    paths["empty"].write_bytes(b"")
    soundfile.write(paths["silent"], np.zeros(32_000), 16_000)
    soundfile.write(paths["low"], noise[:16_000], 8_000)
    paths["cut"].write_bytes(paths["cut"].read_bytes()[:3000])
    prepare("librispeech", tmp_path, out, progress=False)
    rows, said = read_manifest(out), reasons(out)
    assert {row.id for row in rows} | set(said) == set(made) and set(said) >= set(names.values()) and rows
    words = ("does not fit", "lasts 40.0 s", "not readable", "not readable", "silent", "8000 Hz")
    for fault, word in zip(names, words, strict=False):
        assert word in said[names[fault]], fault
    before = contents(out)
    monkeypatch.setattr("taste_min.prepare.make", None)  # a second run has nothing to do
    prepare("librispeech", tmp_path, out, progress=False)
    assert contents(out) == before


def test_an_interrupted_run_continues_to_the_same_bytes(tmp_path, no_processes, monkeypatch):
    from taste_min import prepare as module

    write_tar(tmp_path / "EN" / "EN-B000000.tar", emilia_files(emilia_records(4)))
    prepare("emilia", tmp_path, tmp_path / "whole", progress=False)
    make, calls = module.make, []

    def dying(source, out):
        calls.append(source.id)
        row = make(source, out)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return row

    monkeypatch.setattr(module, "make", dying)
    with pytest.raises(KeyboardInterrupt):
        prepare("emilia", tmp_path, tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") != contents(tmp_path / "whole")
    prepare("emilia", tmp_path, tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_two_worker_processes_write_what_one_process_writes(tmp_path, monkeypatch):
    librispeech(tmp_path)
    prepare("librispeech", tmp_path, tmp_path / "two", workers=2, progress=False)
    monkeypatch.setattr(corpus_files, "ProcessPoolExecutor", Here)
    prepare("librispeech", tmp_path, tmp_path / "one", progress=False)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_a_damaged_shard_is_named_and_completed_later(tmp_path, no_processes):
    path, out = tmp_path / "EN" / "EN-B000000.tar", tmp_path / "out"
    write_tar(path, emilia_files(emilia_records(4)))
    prepare("emilia", tmp_path, tmp_path / "whole", progress=False)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    prepare("emilia", tmp_path, out, progress=False)
    assert "damaged" in reasons(out)[path.name] and 1 <= len(read_manifest(out)) < 4
    path.write_bytes(content)
    prepare("emilia", tmp_path, out, progress=False)
    assert (out / "manifest.tsv").read_bytes() == (tmp_path / "whole" / "manifest.tsv").read_bytes()


def test_hours_bound_a_beginning(tmp_path):
    sources = [Source(f"id{i}", seconds=20.0) for i in range(90)]
    sources[1:1] = [Source("bad", fault="it has no .json"), Source("long", seconds=40.0)]
    part = list(first_hours(sources, 0.1))
    assert part == sources[:20] and sum(s.seconds or 0 for s in part) == 360 + 40
    assert list(first_hours(sources, 0.2))[:20] == part  # more hours only add
    assert list(first_hours([Source("x", tmp_path / "missing.flac")], 1)) == [Source("x", tmp_path / "missing.flac")]


def test_no_shifted_recording_outlasts_the_window_of_the_encoder():
    from taste_min.features import Utterance

    def longest(seconds):
        all_of_them = [Utterance(f"id{i}", None, "", "", "train", seconds, "", []) for i in range(300)]
        return max(len(shifted(torch.zeros(1000), [], shift_of(u))[0]) / 1000 * seconds for u in all_of_them)

    assert longest(30.0) <= 30.0 and longest(27.3) <= 30.0
    assert longest(20.0) > 23  # a shorter one is played up to 0.85 times as fast


def test_the_command_reports_and_ends_in_one_sentence(tmp_path, no_processes, capsys):
    librispeech(tmp_path)
    out = str(tmp_path / "out")
    command = ["prepare", "librispeech", str(tmp_path), "--out", out, "--subset", "dev-clean"]
    assert cli.main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["utterances"] == 2 and list(report["hours_by_split"]) == ["dev"] and report["rejected"] == 0
    assert cli.main(command) == 0
    assert "2 utterances of 1 speakers" in capsys.readouterr().out
    for arguments, message in (
        ([str(tmp_path / "no"), "--out", out], "is not a folder"),
        ([str(tmp_path), "--out", out, "--hours", "0"], "--hours must be"),
        ([str(tmp_path), "--out", str(tmp_path / "LibriSpeech" / "dev-clean" / "x"), "--subset", "x"], "no subset 'x'"),
    ):
        assert cli.main(["prepare", "librispeech", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "LibriSpeech" / "dev-clean" / "x").exists()


def test_a_corpus_without_anything_usable_says_why(tmp_path, no_processes):
    write_tar(tmp_path / "EN-B000000.tar", {"a.json": b"{}"})
    with pytest.raises(TasteError, match="no utterance could be used; the first of 1 reasons: a: it has no .mp3"):
        prepare("emilia", tmp_path, tmp_path / "out", progress=False)
