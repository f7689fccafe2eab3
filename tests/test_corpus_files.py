"""Filling a corpus folder: killed anywhere, resumed, repeated or shared out, it holds the same bytes in the end."""

import itertools
from collections import namedtuple
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
from corpus_trees import Here, contents
from filelock import FileLock

from taste_min import corpus_files
from taste_min.corpus_files import fill, hours_by, write_recording
from taste_min.errors import TasteError

Job = namedtuple("Job", "id")
COLUMNS = ("id", "audio")
JOBS = [Job(f"id{i}") for i in range(6)]


def make(job, out):
    if job.id in ("id2", "id4"):
        raise TasteError(f"{job.id} has\nno words")
    write_recording(out / "audio" / f"{job.id}.flac", np.full(50, int(job.id[2:]) / 10), 22_050)
    return {"id": job.id, "audio": f"audio/{job.id}.flac"}


@pytest.fixture(autouse=True)
def no_processes(monkeypatch):
    monkeypatch.setattr(corpus_files, "ProcessPoolExecutor", Here)


@pytest.fixture
def whole(tmp_path):
    fill(tmp_path / "whole", COLUMNS, JOBS, make, progress=False)
    return contents(tmp_path / "whole")


def test_rows_and_refusals_stand_in_the_order_of_the_jobs(whole):
    assert whole["manifest.tsv"].decode().split() == ["id", "audio"] + [
        part for i in (0, 1, 3, 5) for part in (f"id{i}", f"audio/id{i}.flac")
    ]
    assert whole["rejected.txt"] == b"id2\tid2 has no words\nid4\tid4 has no words\n"
    assert {name for name in whole if name.endswith(".flac")} == {f"audio/id{i}.flac" for i in (0, 1, 3, 5)}


def killed(out, at, how):
    """Fill `out`, and die in job number `at`: before or after its recording was written, or in the middle of both."""

    def dying(job, folder):
        if job is not JOBS[at]:
            return make(job, folder)
        if how == "after" and job.id not in ("id2", "id4"):
            make(job, folder)
        if how == "during":
            write_recording(folder / "audio" / "x.flac", np.zeros(50), 22_050)
            (folder / "audio" / "x.flac").rename(folder / "audio" / f"{job.id}.99.part")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(out, COLUMNS, JOBS, dying, progress=False)
    if how == "during":  # half a line of each file
        for name, line in (("manifest.tsv", f"{JOBS[at].id}\tau"), ("rejected.txt", JOBS[at].id[:2])):
            with (out / name).open("a") as file:
                file.write(line)


@pytest.mark.parametrize("how", ["before", "during", "after"])
def test_killed_anywhere_and_resumed_it_is_the_same(tmp_path, whole, how):
    for at in range(len(JOBS)):
        out = tmp_path / str(at)
        killed(out, at, how)
        assert contents(out) != whole  # the check can fail
        fill(out, COLUMNS, JOBS, make, progress=False)
        assert contents(out) == whole, at


def test_killed_again_and_again_it_still_gets_there(tmp_path, whole):
    out = tmp_path / "out"
    for at in (0, 2, 3, 5):
        killed(out, at, "during")
    fill(out, COLUMNS, JOBS, make, progress=False)
    assert contents(out) == whole


def test_without_the_repair_a_resumed_run_differs(tmp_path, whole, monkeypatch):
    killed(tmp_path / "out", 3, "during")
    monkeypatch.setattr(corpus_files, "_repair", lambda manifest, columns: {"id0", "id1"})
    fill(tmp_path / "out", COLUMNS, JOBS, make, progress=False)
    assert contents(tmp_path / "out") != whole


def test_a_second_run_makes_nothing_and_more_jobs_are_added_at_the_end(tmp_path, whole):
    def never(job, out):
        raise AssertionError(job)

    fill(tmp_path / "whole", COLUMNS, JOBS, never, progress=False)
    assert contents(tmp_path / "whole") == whole
    fill(tmp_path / "part", COLUMNS, JOBS[:3], make, progress=False)
    fill(tmp_path / "part", COLUMNS, JOBS, make, progress=False)
    assert contents(tmp_path / "part") == whole


def test_a_lost_recording_is_made_again(tmp_path, whole):
    (tmp_path / "whole" / "audio" / "id1.flac").unlink()
    fill(tmp_path / "whole", COLUMNS, JOBS, make, progress=False)
    again = contents(tmp_path / "whole")
    assert sorted(again.pop("manifest.tsv").split(b"\n")) == sorted(whole.pop("manifest.tsv").split(b"\n"))
    assert again == whole


@pytest.mark.parametrize(
    "damage",
    [
        lambda out, row: row.replace(b"0.002", b"0.0\xff2"),
        lambda out, row: row.replace(b"0.002", b"nan"),
        lambda out, row: row.replace(b"[[]]", b"[[]"),
        lambda out, row: row.replace(b"id1\t", b"id7\t"),
        lambda out, row: (out / "audio" / "id1.flac").write_bytes(b"") and row or row,  # as after a power cut
    ],
)
def test_damaged_lines_and_recordings_are_made_again(tmp_path, damage):
    columns = (*COLUMNS, "seconds", "words")

    def timed(job, out):
        return make(job, out) | {"seconds": "0.002", "words": "[[]]"}

    out, manifest = tmp_path / "out", tmp_path / "out" / "manifest.tsv"
    fill(out, columns, JOBS, timed, progress=False)
    whole = contents(out)
    lines = whole["manifest.tsv"].splitlines(keepends=True)
    lines[2] = damage(out, lines[2])
    manifest.write_bytes(b"".join(lines))
    assert contents(out) != whole
    fill(out, columns, JOBS, timed, progress=False)
    again = contents(out)
    assert sorted(again.pop("manifest.tsv").splitlines()) == sorted(whole.pop("manifest.tsv").splitlines())
    assert again == whole


def test_jobs_are_read_only_a_little_ahead_and_counted_once(tmp_path):
    seen = []

    def endless():
        for i in itertools.count():
            seen.append(i)
            yield Job(f"id{i // 2}")

    def stop(job, out):
        if job.id == "id20":
            raise KeyboardInterrupt
        return make(job, out)

    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, COLUMNS, endless(), stop, workers=2, progress=False)
    assert len(seen) == 41
    ids = [line.split("\t")[0] for line in (tmp_path / "manifest.tsv").read_text().splitlines()[1:]]
    assert len(ids) == len(set(ids)) >= 8


def test_other_folders_are_left_alone(tmp_path):
    (tmp_path / "manifest.tsv").write_text("id\taudio\trate\nx\ty\t1\n")
    with pytest.raises(TasteError, match="another kind of corpus"):
        fill(tmp_path, COLUMNS, JOBS, make, progress=False)
    assert (tmp_path / "manifest.tsv").read_text() == "id\taudio\trate\nx\ty\t1\n"
    with pytest.raises(TasteError, match="cannot be made a folder"):
        fill(tmp_path / "manifest.tsv", COLUMNS, JOBS, make, progress=False)
    (tmp_path / "busy").mkdir()
    with FileLock(tmp_path / "busy" / ".lock"), pytest.raises(TasteError, match="another build"):
        fill(tmp_path / "busy", COLUMNS, JOBS, make, progress=False)


@pytest.mark.parametrize(
    "error, message", [(OSError("no space left"), "no space left"), (BrokenProcessPool(), "a worker was killed")]
)
def test_a_full_disk_ends_the_run_and_refuses_nothing(tmp_path, whole, error, message):
    def full(job, out):
        if job.id == "id3":
            raise error
        return make(job, out)

    with pytest.raises(TasteError, match=message):
        fill(tmp_path / "out", COLUMNS, JOBS, full, progress=False)
    fill(tmp_path / "out", COLUMNS, JOBS, make, progress=False)
    assert contents(tmp_path / "out") == whole


def test_hours_are_summed_by_column():
    Row = namedtuple("Row", "split seconds")
    rows = [Row("train", 1800.0), Row("dev", 360.0), Row("train", 5400.0)]
    assert hours_by(rows, "split") == {"dev": 0.1, "train": 2.0}
