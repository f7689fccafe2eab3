"""Batch order, padding, segments, and the feature cache."""

import json

import pytest
import soundfile
import torch
from fake_corpus import fake_features, make_features

from taste_min import features as feature_module
from taste_min.data import BatchOrder, FeatureStore
from taste_min.errors import TasteError
from taste_min.features import build, read_manifest
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


def one_recording(folder, word_times) -> FeatureStore:
    """A store with one recording of 60 units, 1.2 s, and the given times of its words."""
    features = fake_features(0, 4, 60)
    features["word_times"] = torch.tensor(word_times).reshape(-1, 2)
    row = {"id": "u", "split": "train", "seconds": 1.2, "text": "a b", "n_tokens": 4, "n_units": 60}
    write_shard(folder / "features-00000.safetensors", [row], [features], "x")
    return FeatureStore(folder, "train")


def test_progress_rises_from_0_to_1_in_a_word_and_waits_in_the_pause_before_it(tmp_path):
    batch = one_recording(tmp_path, [[0.2, 0.5], [0.8, 0.9]]).text_and_units([0], None)
    words, progress = batch.unit_words[0], batch.unit_progress[0]
    assert words.tolist() == [0] * 25 + [1] * 35  # the pause from 0.5 s to 0.8 s belongs to the second word
    middle = (torch.arange(60) + 0.5) / 50
    torch.testing.assert_close(progress[10:25], (middle[10:25] - 0.2) / 0.3)
    torch.testing.assert_close(progress[40:45], (middle[40:45] - 0.8) / 0.1)
    assert not progress[:10].any() and not progress[25:40].any()
    assert (progress[45:] == 1).all()  # silence after the last word
    assert (progress[10:25].diff() > 0).all() and progress.min() >= 0 and progress.max() <= 1


def test_without_word_times_no_word_is_known(tmp_path):
    batch = one_recording(tmp_path, []).text_and_units([0], None)
    assert (batch.unit_words == -1).all() and not batch.unit_progress.any()


def test_progress_is_padded_like_the_units(folder):
    batch = FeatureStore(folder, "train").text_and_units([0, 3, 4], None)
    assert batch.unit_progress.shape == batch.unit_words.shape == batch.units.shape
    for row, n in enumerate(batch.unit_lengths.tolist()):
        assert (batch.unit_words[row, n:] == -1).all() and not batch.unit_progress[row, n:].any()


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
