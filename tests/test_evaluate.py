"""From rows to metrics and back; the command with a fake judge and a tiny model; resuming; comparing."""

import json

import numpy as np
import pytest
from fake_taste import TEXT, speech, tiny_taste

from taste_min import cli, evaluate, evaluate_command, judge, metrics, quality, speaker, tokenizer
from taste_min.audio import SAMPLE_RATE, write_audio
from taste_min.errors import TasteError
from taste_min.evaluate import MEDIANS, METRICS, aggregate, codebook_perplexity, compare
from taste_min.files import read_records
from taste_min.text import Word


def row(i: int, text: str, errors: int, shift: float = 0.0) -> dict:
    rng = np.random.default_rng(i)
    pitch, energy = rng.normal(5, 0.2, 6), rng.normal(-20, 3, 6)
    return {
        "id": str(i),
        "text": text,
        "word_errors": errors,
        "word_errors_original": 1,
        "reference_words": 10,
        "within_50ms": 5,
        "within_25ms": 3,
        "timed_words": 6,
        "word_log_f0": [[*pitch[:5], None], [*(pitch[:5] * (1 - shift) + shift * rng.normal(5, 0.2, 5)), 5.0]],
        "word_energy_db": [list(energy), list(energy)],
        "dnsmos_p808": 3.5,
        "dnsmos_p808_original": 4.0,
        "visqol": 2.5,
        "distillmos": 4.1,
        "distillmos_original": 4.0,
        "unit_nats": 120.0,
        "unit_top1": 40,
        "unit_top5": 55,
        "unit_positions": 60,
        "duration_transfer_swapped": [1.0, 0.8],
        "duration_transfer_unswapped": [0.0, 0.1 * (i % 3)],
        "f0_transfer_swapped": [0.9],
        "f0_transfer_unswapped": [],
        "speaker_similarity": 0.8,
        "bits": 300.0,
        "seconds_original": 2.0,
    }


def test_metrics_derive_from_the_rows():
    rows = [row(i, f"text {i // 2}", i % 3) for i in range(12)]
    found = aggregate(rows)
    assert set(found) == {*METRICS, *MEDIANS} - {"f0_transfer_unswapped"}  # no row has a value
    assert found["wer"]["value"] == pytest.approx(12 / 120)
    assert found["wer"]["low"] < 0.1 < found["wer"]["high"]
    assert found["wer_above_original"]["value"] == pytest.approx(0)
    assert found["duration_consistency_50ms"]["value"] == pytest.approx(5 / 6)
    assert found["word_f0_correlation"]["value"] == pytest.approx(1)
    assert found["dnsmos_p808_above_original"]["value"] == pytest.approx(-0.5)
    assert found["bits_per_second"]["value"] == 150
    assert "GE2E" in found["speaker_similarity"]["note"] and "UTMOS" in found["distillmos"]["note"]
    assert found["visqol"]["value"] == 2.5 and found["distillmos_above_original"]["value"] == pytest.approx(0.1)
    swapped = found["duration_transfer_swapped"]
    assert [swapped[key] for key in ("value", "low", "high")] == pytest.approx([0.9] * 3) and swapped["words"] == 24
    assert found["duration_transfer_unswapped"]["value"] == 0 <= found["duration_transfer_unswapped"]["high"]
    json.dumps(found, allow_nan=False)


def test_one_text_has_no_interval_and_missing_values_no_metric():
    found = aggregate([row(0, "a", 1), row(1, "a", 2)])
    assert found["wer"] == {"value": 0.15, "low": None, "high": None}
    assert found["duration_transfer_swapped"]["low"] is None
    assert set(aggregate([{"text": "a", "word_errors": 1, "reference_words": 4}])) == {"wer"}


def test_compare_pairs_the_utterances():
    a = [row(i, f"text {i}", 0, shift=0.2) for i in range(20)]
    b = [row(i, f"text {i}", 2, shift=0.9) for i in range(20)]
    run = {"run": {"judge": "base", "system": "x"}}
    found = compare({"utterances": a[::-1]} | run, {"utterances": b} | run, tests=True)
    assert {k: found["wer"][k] for k in ("value", "low", "high")} == pytest.approx(
        dict.fromkeys(("value", "low", "high"), -0.2)
    )
    assert found["wer"]["p"] < 0.001 < found["wer"]["holm_p"] * len(found) < 0.1
    assert found["duration_consistency_50ms"]["p"] == found["duration_consistency_50ms"]["holm_p"] == 1
    assert found["word_f0_correlation"]["low"] > 0.1
    assert found["duration_consistency_50ms"]["value"] == 0
    assert found["duration_transfer_swapped"]["value"] == 0 and "f0_transfer_unswapped" not in found
    with pytest.raises(TasteError, match="different utterances"):
        compare({"utterances": a[1:]} | run, {"utterances": b} | run)
    with pytest.raises(TasteError, match="different judges"):
        compare({"utterances": a} | run, {"utterances": b, "run": {"judge": "tiny.en", "system": "x"}})


# --- the command -------------------------------------------------------------------------------------------------


class FakeJudge:
    """Hears TEXT, but an extra word in what is not a recording of whole tenths of a second."""

    asked = 0

    @classmethod
    def load(cls, name, device="cpu"):
        return cls()

    def transcribe(self, wavs):
        FakeJudge.asked += len(wavs)
        return [TEXT if len(wav) % 1600 == 0 else f"{TEXT} indeed" for wav in wavs]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A manifest of ten recordings, a tiny model, a fake judge, words at equal distances."""
    lines = ["id\taudio\ttext\tspeaker\tsplit"]
    for i in range(10):
        write_audio(tmp_path / f"{i}.wav", speech(0.5 + 0.1 * (i % 3), i), SAMPLE_RATE)
        lines.append(f"u{i}\t{i}.wav\t{TEXT}{'.' * (i % 5)}\tann\ttest")
    (tmp_path / "list.tsv").write_text("\n".join(lines) + "\n")
    taste = tiny_taste()

    def times(wav, text):
        step = len(wav) / SAMPLE_RATE / len(text.split())
        return [Word(word, i * step, (i + 1) * step) for i, word in enumerate(text.split())]

    monkeypatch.setattr(judge, "Judge", FakeJudge)
    monkeypatch.setattr(tokenizer.Taste, "from_pretrained", classmethod(lambda cls, name: taste))
    monkeypatch.setattr(speaker, "load_speaker_encoder", lambda: taste.speaker_encoder)
    monkeypatch.setattr(metrics, "word_times", times)
    monkeypatch.setattr(metrics, "pitch", lambda wav: 100 + wav[::160].abs().numpy())
    monkeypatch.setattr(metrics, "dnsmos_p808", lambda wav: 3.0)
    monkeypatch.setattr(quality, "distillmos", lambda wav: 4.0)
    monkeypatch.setattr(quality, "visqol", lambda original, spoken: 2.0)
    monkeypatch.setattr(quality, "not_installed", lambda: [])
    return tmp_path


def run(folder, *extra, system="mini", out="out.json"):
    command = ["evaluate", str(folder / "list.tsv"), "--system", system, "--json", str(folder / out), *extra]
    assert cli.main(command) == 0
    return json.loads((folder / out).read_text())


def test_the_command_writes_metrics_rows_and_facts(workplace, capsys):
    result = run(workplace, "--save-audio", str(workplace / "said"), "--seed", "3")
    assert "wer " in capsys.readouterr().out
    assert {"value", "low", "high"} <= result["wer"].keys()
    assert len(result["utterances"]) == 10 and result["utterances"][4]["columns"] == {"speaker": "ann", "split": "test"}
    assert result["run"]["system"] == "mini" and result["run"]["seed"] == 3 and result["run"]["n_texts"] == 5
    assert str(workplace) not in json.dumps(result)  # nothing about this machine
    assert len(list((workplace / "said").glob("*.flac"))) == 10
    assert not list(workplace.glob("*.part*"))
    derived = aggregate(result["utterances"])
    assert all(derived[name] == result[name] for name in derived)
    assert result["visqol"]["value"] == 2 and result["distillmos"]["value"] == 4
    original = run(workplace, "--limit", "2", system="original", out="original.json")
    assert original["wer"]["value"] == 0 and "wer_above_original" not in original and "visqol" not in original
    without = run(workplace, "--limit", "2", "--skip", "visqol", "distillmos", system="vocoder", out="without.json")
    assert not {"visqol", "distillmos"} & without.keys() and without["run"]["skip"] == ["distillmos", "visqol"]


def test_a_score_whose_package_is_missing_is_left_out_and_said_to_be(workplace, capsys, monkeypatch):
    monkeypatch.setattr(quality, "not_installed", lambda: ["visqol"])
    result = run(workplace, "--limit", "2", system="vocoder")
    assert (
        "left out: the score visqol needs the package visqol-python; run `pip install 'taste_min[peers]'`."
        in capsys.readouterr().out
    )
    assert "visqol" not in result and result["distillmos"]["value"] == 4 and result["run"]["skip"] == ["visqol"]


def test_edits_and_references_through_the_command(workplace):
    lines = ["id\taudio\ttext\tdonor\tswapped\treference"]
    lines += [f"e{i}\t{i}.wav\t{TEXT}{'.' * i}\t{i + 1}.wav\t1-2\t" for i in range(3)]
    (workplace / "list.tsv").write_text("\n".join(lines) + "\n")
    edits = run(workplace, out="edits.json")
    assert edits["duration_transfer_swapped"]["words"] == 6 and edits["duration_transfer_unswapped"]["words"] == 6
    assert "duration_consistency_50ms" not in edits and edits["run"]["n_not_aligned"] == 0
    host = run(workplace, system="original", out="host.json")
    assert host["duration_transfer_swapped"]["value"] == host["duration_transfer_unswapped"]["value"] == 0
    lines = ["id\taudio\ttext\treference", *(f"r{i}\t{i}.wav\t{TEXT}{'.' * i}\t3.wav" for i in range(3))]
    (workplace / "list.tsv").write_text("\n".join(lines) + "\n")
    damaged = run(workplace, system="original", out="damaged.json")
    assert damaged["duration_consistency_25ms"]["value"] < 1 and damaged["visqol"]["value"] == 2


def test_a_peer_through_the_command(workplace):
    result = run(workplace, system="opus", out="opus.json")
    assert 2000 < result["bits_per_second"]["value"] < 16_000 and result["run"]["system"] == "opus"


def test_an_interrupted_run_continues(workplace, monkeypatch):
    whole = run(workplace, system="vocoder", out="whole.json")
    real, calls = evaluate.evaluate_batch, []

    def dies_at_the_second_batch(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(evaluate, "evaluate_batch", dies_at_the_second_batch)
    with pytest.raises(KeyboardInterrupt):
        run(workplace, system="vocoder")
    assert not (workplace / "out.json").exists()
    with (workplace / "out.json.partial").open("a") as file:
        file.write('{"id": "u8", "te')  # killed in the middle of a line
    monkeypatch.setattr(evaluate, "evaluate_batch", real)
    FakeJudge.asked = 0
    continued = run(workplace, system="vocoder")
    assert FakeJudge.asked == 2 * 2  # two recordings were left, original and system
    assert continued["utterances"] == whole["utterances"]


def test_rows_of_another_run_are_not_used(workplace):
    path = workplace / "out.json.partial"
    path.write_text(json.dumps({"system": "other"}) + "\n" + json.dumps({"id": "x"}) + "\n")
    assert all(row["id"] != "x" for row in run(workplace, system="vocoder")["utterances"])
    partial = evaluate_command.Partial(None, {})
    partial.add([{"id": "a"}])
    assert partial.rows == [{"id": "a"}]


@pytest.mark.parametrize("damage", [b'{"id": 11', b"\xff\x00", b"[]", b"[" * 100_000])
def test_rows_from_the_first_damaged_line_on_are_made_again(tmp_path, damage):
    path, key, rows = tmp_path / "out.json.partial", {"seed": 0}, [{"id": i} for i in range(24)]
    evaluate_command.Partial(path, key).add(rows)
    assert evaluate_command.Partial(path, key).rows == rows
    lines = path.read_bytes().split(b"\n")
    lines[12] = damage
    path.write_bytes(b"\n".join(lines))
    assert evaluate_command.Partial(path, key).rows == rows[: evaluate_command.BATCH]
    assert read_records(path) == [key, *rows[: evaluate_command.BATCH]]
    path.write_bytes(b"\xff")
    assert evaluate_command.Partial(path, key).rows == []


def test_compare_prints_and_writes_differences(workplace, capsys):
    for system in ("vocoder", "topline"):
        run(workplace, "--limit", "4", system=system, out=f"{system}.json")
    capsys.readouterr()
    files = [str(workplace / f"{system}.json") for system in ("vocoder", "topline")]
    assert cli.main(["evaluate", "--compare", *files, "--json", str(workplace / "difference.json")]) == 0
    printed = capsys.readouterr().out
    assert "vocoder minus topline" in printed and "after Holm" in printed
    found = json.loads((workplace / "difference.json").read_text())
    assert {"value", "low", "high", "p", "holm_p"} <= found["wer"].keys() and found["run"]["b"]["system"] == "topline"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a manifest"),
        (["list.tsv"], "name a manifest"),
        (["list.tsv", "--system", "maxi"], "no system 'maxi'"),
        (["list.tsv", "--system", "original", "--json", "no/where.json"], "no folder"),
        (["--compare", "list.tsv", "list.tsv"], "not a result"),
    ],
)
def test_mistakes_end_in_one_sentence(workplace, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(workplace)
    assert cli.main(["evaluate", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_codebook_perplexity_counts_the_entries_in_use():
    one, four = np.zeros((8, 1), dtype=int), np.arange(8)[:, None] % 4
    assert codebook_perplexity(one) == pytest.approx(1) and codebook_perplexity(four) == pytest.approx(4)
    assert codebook_perplexity(np.hstack((one, four))) == pytest.approx(2.5)
