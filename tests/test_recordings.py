"""Manifests: what is read, what is chosen, and which sentence a bad row gives."""

import numpy as np
import pytest
import soundfile
import torch

from taste_min.audio import SAMPLE_RATE, VOCODER_RATE
from taste_min.clips import SAMPLES
from taste_min.errors import TasteError
from taste_min.recordings import read_recordings


def manifest(folder, *rows, header="audio\ttext"):
    path = folder / "list.tsv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def noise(folder, name="a.wav", seconds=1.0, rate=SAMPLE_RATE, level=0.1):
    wav = level * np.random.default_rng(0).normal(size=round(seconds * rate)).clip(-3, 3)
    soundfile.write(folder / name, wav.astype("float32"), rate)
    return name


def test_the_samples_are_a_manifest():
    rows = read_recordings(str(SAMPLES / "manifest.tsv"), split="test_voice", limit=3)
    assert [row.columns["speaker"] for row in rows] == ["tebukuro"] * 3
    assert rows[0].id == rows[0].columns["id"] and rows[0].audio.is_file()
    joe = read_recordings(str(SAMPLES / "manifest.tsv"), speaker="joe")
    assert {row.columns["speaker"] for row in joe} == {"joe"}


def test_other_columns_and_rates_are_kept(tmp_path):
    (tmp_path / "sub").mkdir()
    name = noise(tmp_path / "sub", rate=44_100)
    row = read_recordings(manifest(tmp_path, f"sub/{name}\thello\tx", header="audio\ttext\tmood"))[0]
    assert row.id == "sub/a" and row.columns["mood"] == "x"
    assert len(row.load()) == SAMPLE_RATE and len(row.load_for_vocoder()) == VOCODER_RATE


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("I'M SURE HE WILL", "I'm sure he will"),
        ("He said NO.", "He said NO."),
        ("IN 1811, I SAW IT.", "in 1811, I saw it."),
    ],
)
def test_texts_in_capitals_are_read_in_lower_case(tmp_path, text, read):
    assert read_recordings(manifest(tmp_path, f"{noise(tmp_path)}\t{text}"))[0].text == read


def test_a_16_khz_recording_reaches_the_vocoder(tmp_path):
    row = read_recordings(manifest(tmp_path, noise(tmp_path) + "\thello"))[0]
    wav = row.load_for_vocoder()
    assert len(wav) == VOCODER_RATE
    power = torch.fft.rfft(wav).abs().square()
    assert power[8200:].sum() < 0.01 * power.sum()  # nothing is invented above 8 kHz


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("gone.wav\thello", "row 2 of list.tsv: .*gone.wav is not a file"),
        ("text.wav\thello", "row 2 of list.tsv: text.wav is not a readable audio file"),
        ("silent.wav\thello", "row 2 of list.tsv: silent.wav is silent"),
        ("long.wav\thello", "row 2 of list.tsv: long.wav lasts 31.00 s"),
        ("a.wav\t...", "row 2 of list.tsv: audio or text is empty"),
        ("a.wav", "row 2 of list.tsv: audio or text is empty"),
        ("\thello", "row 2 of list.tsv: audio or text is empty"),
        ("good.wav\tagain", "names a recording twice"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, message):
    noise(tmp_path), noise(tmp_path, "good.wav"), noise(tmp_path, "silent.wav", level=0)
    noise(tmp_path, "long.wav", seconds=31)
    (tmp_path / "text.wav").write_text("not audio")
    with pytest.raises(TasteError, match=message) as caught:
        read_recordings(manifest(tmp_path, "good.wav\thello", row))
    assert "\n" not in str(caught.value)


def test_bad_manifests(tmp_path):
    for content, message in (("a,b\n1,2\n", "columns audio and text"), ("audio\ttext\n", "no rows"), ("", "columns")):
        (tmp_path / "bad.tsv").write_text(content)
        with pytest.raises(TasteError, match=message):
            read_recordings(str(tmp_path / "bad.tsv"))
    (tmp_path / "bad.tsv").write_bytes(b"audio\ttext\n\xff\xfe\x00")
    with pytest.raises(TasteError, match="not a text table"):
        read_recordings(str(tmp_path / "bad.tsv"))
    with pytest.raises(TasteError, match="no manifest"):
        read_recordings(str(tmp_path / "none.tsv"))
    with pytest.raises(TasteError, match="no rows that match"):
        read_recordings(str(SAMPLES / "manifest.tsv"), split="nonsense")


@pytest.mark.assets
def test_human():
    clips = read_recordings("human")
    assert len(clips) == 5 and all(2 < len(clip.load()) / SAMPLE_RATE < 10 for clip in clips)


def test_a_reference_and_an_edit(tmp_path):
    for name in ("host.wav", "clean.wav", "donor.wav"):
        noise(tmp_path, name, seconds=1 + len(name) / 10)
    header = "id\taudio\ttext\treference\tdonor\tswapped"
    rows = ["a\thost.wav\tone two three\t\tdonor.wav\t0,2", "b\thost.wav\tone two three\tclean.wav\t\t"]
    edit, damaged = read_recordings(manifest(tmp_path, *rows, header=header))
    assert edit.swapped == (0, 2) and len(edit.load_donor()) == round(1.9 * SAMPLE_RATE)
    assert torch.equal(edit.load_reference(), edit.load()) and edit.reference is None
    assert len(damaged.load_reference()) == round(1.9 * SAMPLE_RATE) and damaged.donor is None and not damaged.swapped
    for row, message in (
        ("c\thost.wav\tone\t\tdonor.wav\t", "belong together"),
        ("c\thost.wav\tone\t\t\t0", "belong together"),
        ("c\thost.wav\tone\t\tgone.wav\t0", "gone.wav is not a file"),
        ("c\thost.wav\tone\tgone.wav\t\t", "gone.wav is not a file"),
        ("c\thost.wav\tone two\t\tdonor.wav\t2", "words 0 to 1"),
    ):
        with pytest.raises(TasteError, match=f"row 1 of list.tsv: .*{message}"):
            read_recordings(manifest(tmp_path, row, header=header))
