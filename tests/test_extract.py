"""Codes of a corpus: from recordings and from cached features the same, resumed, and not made twice."""

import json

import pytest
import soundfile
import torch
from fake_taste import TEXT, letters, speech, tiny_taste

from taste_min import cli, features, smollm
from taste_min import extract as extract_module
from taste_min.audio import SAMPLE_RATE, VOCODER_RATE, read_audio
from taste_min.data import FeatureStore
from taste_min.errors import TasteError
from taste_min.extract import extract, of_features
from taste_min.features import FeatureExtractor, build, with_takes
from taste_min.manifest import read_manifest
from taste_min.tokenizer import Taste

TIMES = [(word, 0.2 * i, 0.2 * i + 0.2) for i, word in enumerate(TEXT.split())]


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Ten utterances, eight to a file, so two files."""
    for module in (extract_module, features):
        monkeypatch.setattr(module, "SHARD", 8)
    (tmp_path / "audio").mkdir()
    lines = ["id\taudio\ttext\tspeaker\tsplit\tseconds\tstyle\twords"]
    for i in range(10):
        soundfile.write(tmp_path / "audio" / f"{i}.wav", speech(1.0, i).numpy(), VOCODER_RATE)
        split = "dev" if i % 8 == 7 else "train"
        lines.append(f"u{i}\taudio/{i}.wav\t{TEXT}\ta\t{split}\t0.726\tplain\t{json.dumps(TIMES)}")
    (tmp_path / "manifest.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_codes_come_from_recordings_and_an_interrupted_run_continues(corpus):
    taste, out = tiny_taste(), corpus / "codes"
    utterances = read_manifest(corpus)
    assert extract(utterances, taste, letters(), out, progress=False) == 2
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(before) == ["features-00000.safetensors", "features-00001.safetensors"]
    assert extract(utterances, taste, letters(), out, progress=False) == 0
    (out / "features-00001.safetensors").unlink()
    assert extract(utterances, taste, letters(), out, progress=False) == 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before

    store = FeatureStore(out, "dev")
    row, codes = store.rows[0], store.tensor(0, "codes")
    assert store.fingerprint == taste.quantizer.fingerprint and len(store) == 1
    assert row["id"] == "u7" and [w[0] for w in row["words"]] == TEXT.split() and row["n_tokens"] == len(" " + TEXT)
    heard = taste.encode(read_audio(corpus / "audio" / "7.wav", SAMPLE_RATE, convert=True), TEXT)
    assert codes.shape == (4, 4) and torch.equal(codes.long(), heard.codes)
    assert row["n_runs"] == len(store.tensor(0, "units").unique_consecutive())

    other = tiny_taste(seed=1)  # other codebooks: everything is made again
    assert extract(utterances[:8], other, letters(), out, progress=False) == 1


def test_cached_features_take_the_place_of_recordings(corpus, monkeypatch):
    taste = tiny_taste()
    taste.trim_keys = True  # as a trained model
    for module in (extract_module, features):
        monkeypatch.setattr(module, "SHARD", 4)  # two files again
    extractor = FeatureExtractor(taste.encoder, taste.tokenizer, taste.units, taste.speaker_encoder)
    utterances = with_takes(read_manifest(corpus)[:3], 2)
    build(utterances, extractor, corpus / "features", progress=False)
    store = FeatureStore(corpus / "features", ("train",))
    owners = of_features(read_manifest(corpus), store)
    assert [u.id for u in owners] == [row["id"] for row in store.rows] and len(owners) == 6
    extract(owners, taste, letters(), corpus / "a", store, progress=False)
    extract(owners, taste, letters(), corpus / "b", progress=False)
    a, b = FeatureStore(corpus / "a", "train"), FeatureStore(corpus / "b", "train")
    assert a.rows == [{**row, "n_runs": a.rows[i]["n_runs"]} for i, row in enumerate(b.rows)]
    same = [torch.equal(a.tensor(i, "codes"), b.tensor(i, "codes")) for i in range(6)]
    assert sum(same) >= 5  # float16 features may turn a near tie
    later = [row for row in a.rows if "-take2" in row["id"]][0]
    assert later["words"][-1][2] == pytest.approx(0.8 * later["seconds"] / 0.726, abs=2e-3)
    with pytest.raises(TasteError, match="no utterance u0"):
        of_features(read_manifest(corpus)[7:], store)


def test_the_command_says_what_it_did(corpus, monkeypatch, capsys):
    monkeypatch.setattr(Taste, "from_pretrained", lambda name: tiny_taste())
    monkeypatch.setattr(smollm, "load_smollm", lambda: (None, letters()))
    assert cli.main(["extract", str(corpus), "--out", str(corpus / "codes"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == {"utterances": 10, "files_written": 2, "from_features": False}
    assert cli.main(["extract", str(corpus / "audio"), "--out", str(corpus / "x")]) == 2
    assert "manifest" in capsys.readouterr().err
