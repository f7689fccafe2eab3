"""Readers of real corpora: the true layouts, the splits, the text, and what is said about damaged shards."""

import io
import itertools
import json
import sys
import tarfile
from collections import Counter

import pytest
import soundfile
import torch
from corpus_trees import capitals, emilia_files, emilia_records, librispeech, libritts, write_tar

from taste_min.corpora import _audio_bytes, emilia_source, emilia_split, lower_case, read_corpus
from taste_min.errors import TasteError


def test_librispeech_is_read_with_its_splits_and_speakers(tmp_path):
    made = librispeech(tmp_path)
    found = list(read_corpus("librispeech", tmp_path))
    assert {s.id for s in found} == set(made) and not any(s.fault for s in found)
    for source in found:
        assert source.audio.is_file() and source.audio.stem == source.id and source.id.split("-")[0] == source.speaker
        assert source.split == source.audio.parts[-4].split("-")[0]
        assert capitals(source.text) == capitals(made[source.id][1]) and source.text != capitals(source.text)
    assert Counter(s.split for s in found) == {"train": 4, "dev": 2, "test": 2}
    assert list(read_corpus("librispeech", tmp_path / "LibriSpeech")) == found  # the inner folder will do
    dev = list(read_corpus("librispeech", tmp_path, ["dev-clean"]))
    assert dev == [s for s in found if s.split == "dev"]


def test_any_beginning_has_all_splits(tmp_path):
    for subset, n in (("train-other-500", 300), ("dev-other", 40), ("test-other", 40)):
        for speaker in range(10):
            folder = tmp_path / subset / str(speaker) / "1"
            folder.mkdir(parents=True)
            ids = [f"{speaker}-1-{subset[0]}{i}" for i in range(n // 10)]
            (folder / f"{speaker}-1.trans.txt").write_text("".join(f"{id_} A WORD\n" for id_ in ids))
    found = list(read_corpus("librispeech", tmp_path))
    assert len(found) == 380 and {s.fault for s in found} == {"the recording is missing"}
    for beginning in (20, 100, 300):
        share = Counter(s.split for s in found[:beginning])
        assert abs(share["train"] - 0.8 * beginning) <= 1 and abs(share["dev"] - 0.1 * beginning) <= 1
    assert len({s.speaker for s in found[:50]}) == 10
    in_folder_order = sorted(found, key=lambda s: str(s.audio))
    assert len({s.split for s in in_folder_order[:40]}) == 1  # the check can fail


@pytest.mark.parametrize(
    "capital, lower",
    [
        ("I'M SURE HE WILL", "I'm sure he will"),
        ("SO DO I", "so do I"),
        ("I'LL ASK IF I'D SKI IN IT", "I'll ask if I'd ski in it"),
        ("HENRY THE EIGHTH", "henry the eighth"),
    ],
)
def test_capitals_become_lower_case_except_the_pronoun(capital, lower):
    assert lower_case(capital) == lower and lower_case(lower) == lower


def test_libritts_takes_the_normalized_text_as_written(tmp_path):
    libritts(tmp_path)
    found = list(read_corpus("libritts", tmp_path))
    texts = {p.name.split(".")[0]: p.read_text() for p in tmp_path.rglob("*.normalized.txt")}
    assert {s.id: s.text for s in found} == texts and {s.split for s in found} == {"train", "dev"}
    assert any(text != text.lower() for text in texts.values())
    with pytest.raises(TasteError, match="another corpus"):  # the same subsets, other files
        list(read_corpus("librispeech", tmp_path / "LibriTTS"))


def test_missing_halves_are_named(tmp_path):
    made = librispeech(tmp_path)
    first, second, third = sorted(made)[:3]
    next(tmp_path.rglob(f"{first}.flac")).unlink()
    for path in tmp_path.rglob("*.trans.txt"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line.replace(third, f"{third} ") for line in lines if not line.startswith(second)))
    found = {s.id: s.fault for s in read_corpus("librispeech", tmp_path)}
    faults = {id_: fault for id_, fault in found.items() if fault}
    assert set(found) == set(made)
    assert faults == {first: "the recording is missing", second: "the transcript is missing"}


def test_wrong_folders_are_refused_in_one_sentence(tmp_path):
    librispeech(tmp_path)
    (tmp_path / "empty" / "dev-clean").mkdir(parents=True)
    cases = [
        ("librispeech", tmp_path / "nowhere", (), "is not a folder"),
        ("librispeech", tmp_path / "LibriSpeech" / "dev-clean", (), "no subset of librispeech"),
        ("librispeech", tmp_path, ["dev-clear"], "no subset 'dev-clear' in .*; it holds dev-clean, test-clean"),
        ("librispeech", tmp_path / "empty", (), "holds no utterances"),
        ("emilia", tmp_path, (), "neither shards"),
        ("emilia", tmp_path, ["dev-clean"], "has no subsets"),
    ]
    for name, folder, subsets, message in cases:
        with pytest.raises(TasteError, match=message):
            list(read_corpus(name, folder, subsets))


def test_emilia_is_read_shard_by_shard(tmp_path):
    records = emilia_records()
    write_tar(tmp_path / "EN" / "EN-B000000.tar", emilia_files(records[:4]))
    swapped = dict(reversed(emilia_files(records[4:][::-1]).items()))  # mp3 in front of its json, in folders
    write_tar(tmp_path / "EN" / "EN-B000001.tar", {f"./EN_B00001/{name}": file for name, file in swapped.items()})
    write_tar(tmp_path / "ZH" / "ZH-B000000.tar", {"ZH_1.json": b"{}"})
    found = list(read_corpus("emilia", tmp_path))
    assert [(s.id, s.audio, s.text, s.seconds, s.fault) for s in found] == [
        (key, mp3, said["text"], said["duration"], "") for key, mp3, said in records
    ]
    assert all(s.speaker == said["speaker"] for s, (_, _, said) in zip(found, records, strict=True))
    assert all(s.split == emilia_split(s.speaker) for s in found)


def test_emilia_speakers_are_held_out_for_ever():
    splits = Counter(emilia_split(f"EN_B00000_S{i:05d}") for i in range(10_000))
    assert 150 < splits["dev"] < 250 and 150 < splits["test"] < 250
    assert emilia_split("EN_B00000_S00000") == "train"


def test_unusable_records_are_named_and_the_others_kept(tmp_path):
    (key, mp3, said), *rest = emilia_records(6)
    files = emilia_files(rest[:1]) | {f"{key}.mp3": mp3} | emilia_files(rest[1:2])  # without its json
    files |= {"no_mp3.json": b"{}", "broken.json": b"{not", "broken.mp3": mp3, "poor.json": b'{"text": "a"}'}
    files |= {"poor.mp3": mp3, "list.json": b"[1]", "list.mp3": mp3}
    files |= {"zh.json": json.dumps(said | {"language": "zh"}).encode(), "zh.mp3": mp3, "readme.txt": b"hi"}
    write_tar(tmp_path / "EN-B000000.tar", files | emilia_files(rest[2:]))
    found = {s.id: s.fault for s in read_corpus("emilia", tmp_path)}
    faults = {id_: fault for id_, fault in found.items() if fault}
    assert {id_ for id_ in found if not faults.get(id_)} == {k for k, _, _ in rest}
    assert faults[key] == "it has no .json" and faults["no_mp3"] == "it has no .mp3"
    assert "language is zh" in faults["zh"]
    assert all("its json lacks" in faults[id_] for id_ in ("broken", "poor", "list")) and len(faults) == 6
    assert emilia_source("../a\tb", mp3, said).id == ".._a_b"


def test_a_shard_cut_or_damaged_anywhere_gives_what_stands_before_and_says_so(tmp_path):
    path, whole = tmp_path / "EN" / "EN-B000000.tar", emilia_files(emilia_records(3))
    write_tar(path, whole)
    content, ids = path.read_bytes(), [name.removesuffix(".json") for name in whole if name.endswith(".json")]
    with tarfile.open(path) as tar:
        members, end = tar.getmembers(), tar.offset
    headers = sorted({m.offset + d for m in members for d in (0, 100, 300)} | {end})
    cuts = headers + [m.offset_data + d for m in members for d in (0, 100)]
    damages = [content[:place] for place in cuts]
    damages += [content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :] for place in headers]
    silent = 0
    for damaged in damages:
        path.write_bytes(damaged)
        *found, last = read_corpus("emilia", tmp_path)
        assert last.id == path.name and "the shard is damaged" in last.fault
        assert [s.id for s in found] == ids[: len(found)] and not any(s.fault for s in found)
        try:
            with tarfile.open(path, "r|") as tar:
                silent += len(list(tar)) < len(whole)
        except tarfile.TarError:
            pass
    assert silent > 5  # tarfile alone reports a shorter shard as a whole one
    path.write_bytes(content)
    assert [s.id for s in read_corpus("emilia", tmp_path)] == ids


def test_tables_without_the_library_say_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "emilia-dataset-train-00000-of-04908-taste.arrow").touch()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TasteError, match=r"taste_min\[arrow\]"):
        read_corpus("emilia", tmp_path)


def test_samples_in_a_table_become_an_audio_file():
    wav = torch.linspace(-1.2, 1.2, 500).tolist()
    data, rate = soundfile.read(io.BytesIO(_audio_bytes({"array": wav, "sampling_rate": 24_000})), dtype="float32")
    assert rate == 24_000 and torch.equal(torch.from_numpy(data), torch.tensor(wav))
    assert _audio_bytes({"bytes": b"ID3", "path": "a.mp3"}) == b"ID3"


def test_arrow_and_parquet_files_are_streamed(tmp_path):
    pytest.importorskip("datasets")
    import pyarrow.parquet

    records = emilia_records(4)
    original = [
        {"__key__": k, "mp3": {"array": [0.1] * 24_000, "sampling_rate": 24_000, "path": ""}, "json": said}
        for k, _, said in records[:2]
    ]
    published = [
        {"__key__": k, "mp3": {"bytes": mp3, "path": f"{k}.mp3"}, "json": said} for k, mp3, said in records[2:]
    ]
    table = pyarrow.Table.from_pylist(original)
    with pyarrow.ipc.new_stream(tmp_path / "emilia-dataset-train-00000-of-04908-taste.arrow", table.schema) as file:
        file.write_table(table)
    (tmp_path / "cache-1.arrow").write_bytes(b"left behind")
    table = pyarrow.Table.from_pylist(published)
    string = {"dtype": "string", "_type": "Value"}
    numbers = {name: {"dtype": "float64", "_type": "Value"} for name in ("duration", "dnsmos")}
    said = dict.fromkeys(records[0][2], string) | numbers
    features = {"info": {"features": {"__key__": string, "mp3": {"_type": "Audio"}, "json": said}}}  # as on the hub
    table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pyarrow.parquet.write_table(table, tmp_path / "train-00000.parquet")
    (tmp_path / "z.parquet").write_bytes(b"not a table")
    *found, last = read_corpus("emilia", tmp_path)
    assert [s.id for s in found] == [key for key, _, _ in records] and not any(s.fault for s in found)
    assert [s.audio for s in found[2:]] == [mp3 for _, mp3, _ in records[2:]]
    assert last.id == "z.parquet" and "damaged" in last.fault
    assert len(list(itertools.islice(read_corpus("emilia", tmp_path), 2))) == 2
