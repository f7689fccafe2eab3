"""`taste-min prepare` on tiny trees: what training reads is right, and nothing is lost without a word."""

import csv
import json
import shutil

import numpy as np
import onnx
import pytest
import soundfile
import torch
from corpus_trees import Here, contents, emilia_files, emilia_records, librispeech, libritts, write_tar
from onnx import helper, numpy_helper
from torchaudio.functional import resample

from taste_min import cli, corpus_files, prepare_units
from taste_min.audio import VOCODER_RATE, read_audio
from taste_min.corpora import Source
from taste_min.data import FeatureStore
from taste_min.errors import TasteError
from taste_min.features import shift_of
from taste_min.manifest import Utterance, read_manifest
from taste_min.prepare import COLUMNS, first_hours, prepare
from taste_min.prepare_units import GRAPHS, add_units
from taste_min.s3 import S3Tokenizer
from taste_min.speaker import CAMPPlus


@pytest.fixture
def no_processes(monkeypatch):
    monkeypatch.setattr(corpus_files, "ProcessPoolExecutor", Here)


def reasons(out):
    return dict(line.split("\t") for line in (out / "rejected.txt").read_text().splitlines())


@pytest.fixture(scope="module")
def read_speech(tmp_path_factory):
    """(what a LibriSpeech of samples is made of, its folder, the folder that was prepared from it, the summary)."""
    folder = tmp_path_factory.mktemp("corpus")
    made = librispeech(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_files, "ProcessPoolExecutor", Here)
        summary = prepare("librispeech", folder, folder / "out", progress=False)
    return made, folder, folder / "out", summary


def test_librispeech_becomes_what_training_reads(read_speech):
    made, _, out, summary = read_speech
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
    junk = ("EN_junk", b"no mp3 at all", records[0][2])
    write_tar(tmp_path / "emilia" / "EN" / "EN-B000000.tar", emilia_files([junk, *records]))
    for name, folder in (("libritts", tmp_path / "tts"), ("emilia", tmp_path / "emilia")):
        prepare(name, folder, tmp_path / "both", progress=False)  # two corpora may share a folder
    rows = {row.id: row for row in read_manifest(tmp_path / "both")}
    assert len(rows) == 7 and "not readable" in reasons(tmp_path / "both")["EN_junk"]
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

    write_tar(tmp_path / "EN" / "EN-B000000.tar", emilia_files(emilia_records(3)))
    prepare("emilia", tmp_path, tmp_path / "whole", progress=False)
    make, calls = module.make, []

    def dying(source, out):
        calls.append(source.id)
        row = make(source, out)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return row

    monkeypatch.setattr(module, "make", dying)
    with pytest.raises(KeyboardInterrupt):
        prepare("emilia", tmp_path, tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") != contents(tmp_path / "whole")
    prepare("emilia", tmp_path, tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_two_worker_processes_write_what_one_process_writes(tmp_path, read_speech):
    _, folder, out, _ = read_speech
    prepare("librispeech", folder, tmp_path, workers=2, progress=False)
    assert contents(tmp_path) == contents(out)


def test_a_damaged_shard_is_named_and_completed_later(tmp_path, no_processes):
    path, out = tmp_path / "EN" / "EN-B000000.tar", tmp_path / "out"
    write_tar(path, emilia_files(emilia_records(3)))
    prepare("emilia", tmp_path, tmp_path / "whole", progress=False)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    prepare("emilia", tmp_path, out, progress=False)
    assert "damaged" in reasons(out)[path.name] and 1 <= len(read_manifest(out)) < 3
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
    def longest(seconds):
        utterances = [Utterance(f"id{i}", None, "", "", "train", seconds, "", []) for i in range(200)]
        return max(seconds / (round(100 * shift_of(u)) / 100) for u in utterances)  # as in `shifted`

    assert longest(30.0) <= 30.0 and longest(27.3) <= 30.0
    assert longest(20.0) > 22.5  # a shorter one is played almost 0.85 times as fast


def test_the_command_reports_and_ends_in_one_sentence(tmp_path, no_processes, capsys):
    librispeech(tmp_path)
    out = str(tmp_path / "out")
    command = ["prepare", "librispeech", str(tmp_path), "--out", out, "--subset", "dev-clean"]
    assert cli.main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["utterances"] == 2 and list(report["hours_by_split"]) == ["dev"] and report["rejected"] == 0
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "2 utterances of 1 speakers" in printed and "needs speech of split train:" in printed
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


def save_graph(path, inputs, output, nodes):
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "test",
            [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
            [helper.make_tensor_value_info("out", *output)],
            [numpy_helper.from_array(np.array([1]), "one")],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    path.parent.mkdir(exist_ok=True)
    onnx.save(model, path)


@pytest.fixture
def graphs(tmp_path):
    """Stand-ins with the inputs of the two graphs: the loudest mel band, and the variance of 80 bands, twice."""
    float32, int32 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32
    save_graph(
        tmp_path / "graphs" / GRAPHS[0],
        [("feats", float32, [1, 128, None]), ("length", int32, [1])],
        (onnx.TensorProto.INT64, [1, None]),
        [helper.make_node("ArgMax", ["feats"], ["out"], axis=1, keepdims=0)],
    )
    save_graph(
        tmp_path / "graphs" / GRAPHS[1],
        [("feats", float32, [1, None, 80])],
        (float32, [1, 160]),
        [
            helper.make_node("Mul", ["feats", "feats"], ["squares"]),
            helper.make_node("ReduceMean", ["squares", "one"], ["mean"], keepdims=0),
            helper.make_node("Concat", ["mean", "mean"], ["out"], axis=1),
        ],
    )
    return tmp_path / "graphs"


def test_units_and_speaker_vectors_are_added_and_kept(tmp_path, read_speech, graphs, no_processes, monkeypatch):
    out = shutil.copytree(read_speech[2], tmp_path / "out")
    monkeypatch.setattr(prepare_units, "SHARD", 3)
    rows = read_manifest(out)
    assert add_units(out, graphs, progress=False) == -(-len(rows) // 3)
    store = FeatureStore(out / "units", ("train", "dev", "test"))
    assert [(r["id"], r["text"], r["split"]) for r in store.rows] == [(u.id, u.text, u.split) for u in rows]
    s3, campplus = S3Tokenizer(graphs / GRAPHS[0]), CAMPPlus(graphs / GRAPHS[1])
    for i, row in enumerate(rows):
        wav = read_audio(row.audio, convert=True)
        assert torch.equal(store.tensor(i, "units").long(), s3.encode(wav))
        assert torch.equal(store.tensor(i, "speaker_embedding"), campplus.speaker_embedding(wav))
    assert not torch.equal(store.tensor(0, "units")[:20], store.tensor(1, "units")[:20])  # the check can fail

    before, second = contents(out), sorted((out / "units").iterdir())[1]
    assert add_units(out, graphs, progress=False) == 0
    second.unlink()  # killed before this file was finished
    (out / "units" / "features-00001.99.part").write_bytes(b"half")
    assert add_units(out, graphs, progress=False) == 1
    assert contents(out) == before
    (graphs / GRAPHS[1]).unlink()
    with pytest.raises(TasteError, match=GRAPHS[1]):
        prepare_units._networks.cache_clear()
        add_units(out, graphs, progress=False)
