"""Batch order, padding, segments, sounds of words, and the feature cache."""

import json

import pytest
import soundfile
import torch
from fake_corpus import fake_features, make_features
from safetensors.torch import save

from taste_min import features as feature_module
from taste_min.data import BatchOrder, FeatureStore
from taste_min.errors import TasteError
from taste_min.features import build
from taste_min.frame_labels import Phone
from taste_min.manifest import read_manifest
from taste_min.phones import SYMBOLS
from taste_min.pointer import sound_path
from taste_min.shards import read_shard_rows, write_shard


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_features(tmp_path_factory.mktemp("features"))


def test_order_is_a_function_of_seed_and_number():
    lengths = torch.randint(10, 90, (700,), generator=torch.Generator().manual_seed(0)).tolist()
    order = BatchOrder(lengths, budget=400, seed=3)
    forward = [order[n] for n in range(300)]
    assert BatchOrder(lengths, 400, 3)[299] == forward[299]  # asked for directly, without the ones before
    assert BatchOrder(lengths, 400, 4)[0] != forward[0]
    epoch = order.per_epoch
    assert sorted(sum(forward[:epoch], [])) == list(range(700))  # every utterance once
    assert forward[0] != order[epoch]  # the next epoch has another order


def test_batches_fit_the_budget_and_hold_utterances_of_like_length():
    lengths = torch.randint(10, 200, (2000,), generator=torch.Generator().manual_seed(1)).tolist()
    order = BatchOrder(lengths, budget=2000, seed=0)
    batches = [order[n] for n in range(order.per_epoch)]
    padded = [len(b) * max(lengths[i] for i in b) for b in batches]
    assert max(padded) <= 2000
    waste = 1 - sum(lengths) / sum(padded)
    shuffled = torch.randperm(2000, generator=torch.Generator().manual_seed(2)).tolist()
    pairs = [shuffled[i : i + 20] for i in range(0, 2000, 20)]
    unsorted_waste = 1 - sum(lengths) / sum(len(b) * max(lengths[i] for i in b) for b in pairs)
    assert waste < 0.05 < unsorted_waste  # batches that are not sorted fail the same check
    assert BatchOrder([5000, 10], 100, 0)[0]  # an utterance above the budget still gets a batch of its own


def test_batches_are_padded_and_keep_their_lengths(folder):
    store = FeatureStore(folder, "train")
    assert len(store) == 30 and store.hours == pytest.approx(30 / 3600)
    batch = store.text_and_units([0, 3, 4], "hidden_2")
    for row, i in enumerate((0, 3, 4)):
        n, t, u = batch.token_lengths[row], batch.frame_lengths[row], batch.unit_lengths[row]
        assert torch.equal(batch.token_ids[row, :n], store.tensor(i, "token_ids").long())
        assert torch.equal(batch.values[row, :t], store.tensor(i, "hidden_2"))
        assert torch.equal(batch.units[row, :u], store.tensor(i, "units").long())
        assert not batch.values[row, t:].any() and not batch.units[row, u:].any()
    assert batch.token_ids.shape[1] == batch.token_lengths.max()
    assert store.text_and_units([0], None).last is None  # text-only training reads no audio
    flow = store.units_and_mel([0, 3])
    assert flow.mel.shape == (2, 80, int(flow.mel_lengths.max()))
    said = [SYMBOLS[i] for i in flow.sounds[1, : flow.unit_lengths[1]]]
    assert said == [sound for sound in (" ", "B", "IH", "G", " ", "B", "ER") for _ in range(5)][: len(said)]
    assert len(said) > 25 and not flow.sounds[0, flow.unit_lengths[0] :].any()


def test_segments_cut_mel_f0_and_waveform_at_the_same_place(folder):
    store = FeatureStore(folder, "train")
    batch = store.segments([1, 5, 7], 8, torch.Generator().manual_seed(0))
    assert batch.mel.shape == (3, 80, 8) and batch.f0.shape == (3, 8) and batch.wav.shape == (3, 2048)
    starts = (batch.mel[:, 0, 0] * 100).round().int().tolist()  # the fake mel counts its frames
    assert len(set(starts)) > 1 and batch.starts.tolist() == starts
    for row, (i, start) in enumerate(zip((1, 5, 7), starts, strict=True)):
        whole = store.tensor(i, "wav").float() / 32767
        torch.testing.assert_close(batch.wav[row], whole[start * 256 : (start + 8) * 256])
    again = store.segments([1, 5, 7], 8, torch.Generator().manual_seed(0))
    assert torch.equal(again.wav, batch.wav)
    with pytest.raises(TasteError, match="shorter than a segment"):
        store.segments([0], 10_000, torch.Generator())


def test_short_utterances_are_not_played_faster_than_they_last(folder):
    store = FeatureStore(folder, "train")
    n = store.rows[0]["n_mels"]
    for seed in range(20):
        batch = store.segments([0], n - 1, torch.Generator().manual_seed(seed), stretch=1.25)
        assert batch.mel.shape == (1, 80, n - 1) and batch.wav.shape == (1, 256 * (n - 1))
        assert batch.f0.max() <= 176 * n / (n - 1)  # the fake voice has 176 Hz
    faster = [store.segments([0], 8, torch.Generator().manual_seed(seed), 1.25).f0.max() for seed in range(20)]
    assert max(faster) > 176 * 1.15  # a short piece is


def test_pointers_are_padded_like_the_units(folder):
    store = FeatureStore(folder, "train")
    batch = store.text_and_units([0, 3, 4], None)
    assert batch.pointer.shape == batch.units.shape and batch.pointer.dtype == torch.int64
    for row, i in enumerate((0, 3, 4)):
        n = batch.unit_lengths[row]
        assert torch.equal(batch.pointer[row, :n], store.tensor(i, "pointer").long())
        assert not batch.pointer[row, n:].any()


def test_without_word_times_there_is_no_pointer(tmp_path):
    rows = [{"id": f"u{i}", "split": "train", "seconds": 1.2, "text": "a b"} for i in range(2)]
    features = [fake_features(i, 4, 60) for i in range(2)]
    features[1]["pointer"] = torch.zeros(0).short()
    write_shard(tmp_path / "features-00000.safetensors", rows, features, "x")
    store = FeatureStore(tmp_path, "train")
    assert store.text_and_units([0], None).pointer is not None
    assert store.text_and_units([1], None).pointer is store.text_and_units([0, 1], None).pointer is None


def test_prosody_stands_at_the_first_token_of_each_word(folder):
    store = FeatureStore(folder, "train")
    batch = store.text_and_units([0, 3, 4], "hidden_2")
    known = ~batch.prosody.isnan().all(dim=2)
    for row, i in enumerate((0, 3, 4)):
        assert known[row].nonzero()[:, 0].tolist() == list(range(0, int(batch.token_lengths[row]), 2))  # 2 per word
        assert torch.equal(batch.prosody[row, known[row]], store.tensor(i, "prosody"))


def test_sounds_are_given_to_their_words(monkeypatch):
    times = [("A", 0.1, 0.3), ("-", 0.3, 0.3), ("dog.", 0.4, 0.7)]
    texts = []

    def align_phones(wav, text):
        texts.append(text)
        return [Phone("AH", 0.1, 0.3, 0), Phone("D", 0.4, 0.5, 2), Phone("AO", 0.5, 0.6, 2), Phone("G", 0.6, 0.7, 2)]

    monkeypatch.setattr(feature_module, "align_phones", align_phones)
    found = feature_module.sound_times(torch.zeros(16000), times)
    assert texts == ["A - dog."] and found == [[(0.1, 0.3)], [], [(0.4, 0.5), (0.5, 0.6), (0.6, 0.7)]]
    monkeypatch.setattr(feature_module, "align_phones", lambda wav, text: None)
    found = feature_module.sound_times(torch.zeros(16000), times)
    assert found == [[(0.1, 0.3)], [(0.3, 0.3)], [(0.4, 0.7)]]  # words as a whole
    path = sound_path(["A", "-", "dog."], found, 40)
    assert path.tolist() == [0] * 5 + [1] * 10 + [3] * 5 + [4] * 5 + [5] * 5 + [6] * 5 + [7] * 5


def test_missing_features_and_splits_are_named(tmp_path, folder):
    with pytest.raises(TasteError, match="no features"):
        FeatureStore(tmp_path)
    with pytest.raises(TasteError, match=r"\['dev', 'train'\]"):
        FeatureStore(folder, "tset")
    (tmp_path / "features-00000.safetensors").write_bytes(b"half a fi")
    with pytest.raises(TasteError, match="delete it"):
        FeatureStore(tmp_path)


class FakeExtractor:
    """Stands in for the networks; fails at one utterance as a killed process would."""

    fingerprint = "one"

    def __init__(self, fail_at: int | None = None):
        self.calls, self.fail_at = 0, fail_at

    def extract(self, wav, text, times):
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        return fake_features(len(text), 4, 20)


@pytest.fixture
def corpus(tmp_path):
    lines = ["id\taudio\ttext\tspeaker\trate\tsplit\tseconds"]
    for i in range(10):
        soundfile.write(tmp_path / f"{i}.flac", [0.3, -0.3] * 4000, 22050)
        lines.append(f"u{i}\t{i}.flac\ta word or {i}\tjoe\t1\t{'dev' if i == 0 else 'train'}\t0.36")
    (tmp_path / "manifest.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_an_interrupted_cache_continues_where_it_stopped(corpus, monkeypatch):
    monkeypatch.setattr(feature_module, "SHARD", 4)
    utterances, out = read_manifest(corpus), corpus / "features"
    with pytest.raises(KeyboardInterrupt):
        build(utterances, FakeExtractor(fail_at=6), out, progress=False)
    assert [p.name for p in sorted(out.iterdir())] == ["features-00000.safetensors"]
    rest = FakeExtractor()
    assert build(utterances, rest, out, progress=False) == 2 and rest.calls == 6
    assert build(utterances, FakeExtractor(), out, progress=False) == 0
    assert [r["id"] for p in sorted(out.glob("*")) for r in read_shard_rows(p)[0]] == [f"u{i}" for i in range(10)]
    other = FakeExtractor()
    other.fingerprint = "two"  # other units: every file is made again
    assert build(utterances, other, out, worker=1, n_workers=2, progress=False) == 1 and other.calls == 4


def test_manifests_without_the_columns_are_refused(tmp_path):
    with pytest.raises(TasteError, match="no manifest.tsv"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.tsv").write_text("id\taudio\nx\ty\n")
    with pytest.raises(TasteError, match="needs the columns"):
        read_manifest(tmp_path)


def test_rows_survive_as_json(folder):
    rows, fingerprint = read_shard_rows(sorted(folder.glob("*"))[0])
    assert fingerprint == "x" and json.dumps(rows)


def test_equal_features_are_equal_bytes(tmp_path):
    rows, features = [{"id": "u", "split": "train", "seconds": 1.2, "text": "a b"}], [fake_features(0, 4, 60)]
    path, ours, plain = tmp_path / "features-00000.safetensors", set(), set()
    for _ in range(32):
        write_shard(path, rows, features, "x")
        ours.add(path.read_bytes())
        plain.add(save(features[0], {"rows": json.dumps(rows), "fingerprint": "x"}))
    assert len(ours) == 1 < len(plain)  # with an entry for each the order is random
    path.write_bytes(plain.pop())  # as older files are
    assert read_shard_rows(path) == (rows, "x")
