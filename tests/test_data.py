"""Batch order, padding and segments, the feature cache, and the pitch track."""

import json
import math

import pytest
import soundfile
import torch
from fake_corpus import fake_features, make_features

from taste_min import features as feature_module
from taste_min.data import BatchOrder, FeatureStore
from taste_min.errors import TasteError
from taste_min.features import build, read_manifest
from taste_min.pitch import mel_pitch
from taste_min.shards import read_shard_rows


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
    assert len(set(starts)) > 1
    for row, (i, start) in enumerate(zip((1, 5, 7), starts, strict=True)):
        whole = store.tensor(i, "wav").float() / 32767
        torch.testing.assert_close(batch.wav[row], whole[start * 256 : (start + 8) * 256])
    again = store.segments([1, 5, 7], 8, torch.Generator().manual_seed(0))
    assert torch.equal(again.wav, batch.wav)
    with pytest.raises(TasteError, match="shorter than a segment"):
        store.segments([0], 10_000, torch.Generator())


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


def test_pitch_follows_a_harmonic_glide_and_ignores_noise():
    t = torch.arange(2 * 22050) / 22050
    f0 = 100 + 60 * t  # Hz, 100 -> 220
    phase = 2 * math.pi * f0.cumsum(0) / 22050
    glide = 0.1 * sum(torch.sin(k * phase) / k for k in range(1, 8))
    track = mel_pitch(glide)
    assert track.shape == (2 * 22050 // 256,)
    truth = f0[128::256][: len(track)]
    error = (track / truth).log2().abs()[3:-5] * 12
    assert error.max() < 0.3  # semitones
    assert (track[:-4] / truth[4:]).log2().abs()[3:-5].max() * 12 > 0.3  # four frames late would not pass
    noise = torch.randn(22050, generator=torch.Generator().manual_seed(0)) * 0.1
    assert (mel_pitch(noise) > 0).float().mean() < 0.1


def test_rows_survive_as_json(folder):
    rows, fingerprint = read_shard_rows(sorted(folder.glob("*"))[0])
    assert fingerprint == "x" and json.dumps(rows)
