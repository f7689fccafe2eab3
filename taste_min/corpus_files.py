"""A corpus folder that is filled utterance by utterance: recordings, manifest, refusals (paper section 4.1).

The synthetic corpus (corpus_build.py) and real ones (prepare.py) share it. The process may be killed at any moment: the
same call goes on where it stopped, and the manifest comes out as an undisturbed run writes it, in the order of the
jobs, whatever the number of workers.

Axes: S samples.
"""

import itertools
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

import numpy as np
import soundfile
from filelock import FileLock, Timeout
from tqdm import tqdm

from .errors import TasteError
from .files import write_whole


def write_recording(path: Path, wav: np.ndarray, sample_rate: int) -> None:
    """Write `wav (S,)` in [-1, 1] as 16-bit FLAC. The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    soundfile.write(partial, wav, sample_rate, format="FLAC", subtype="PCM_16")
    partial.replace(path)


def fill(
    out: Path,
    columns: Sequence[str],
    jobs: Iterable,
    make: Callable[..., dict[str, str]],
    workers: int = 1,
    total: int | None = None,
    progress: bool = True,
) -> None:
    """Make every job that `out` does not hold yet, in `workers` processes.

    make(job, out) writes the recording of a job and returns its manifest row; a TasteError means that the job cannot
    be used. Such jobs are named in `rejected.txt` with the reason and not tried again. Each job has an `id`; of two
    jobs with the same one the first counts. Jobs are read only a little ahead. total: their number, if it is known.

    Raises TasteError when `out` cannot be written, is being filled by somebody else or holds another kind of corpus.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TasteError(f"{out} cannot be made a folder ({error.strerror}); choose another --out.") from error
    try:
        # the system drops the lock when a process is killed
        with FileLock(out / ".lock", timeout=0), explained(out):
            _fill(out, columns, jobs, make, workers, tqdm(total=total, unit="utt", disable=not progress, mininterval=5))
    except Timeout as error:
        raise TasteError(f"another build is running in {out}; wait for it, or choose another --out.") from error


@contextmanager
def explained(out: Path) -> Iterator[None]:
    """Turns a killed worker, a full disk and forbidden files into a TasteError that says so."""
    try:
        yield
    except BrokenProcessPool as error:
        raise TasteError(
            "a worker was killed, probably for want of memory; run the same command with fewer --workers to go on."
        ) from error
    except (OSError, soundfile.LibsndfileError) as error:
        raise TasteError(
            f"filling {out} stopped ({error}), perhaps for want of room; mend that and run the same command to go on."
        ) from error


def _fill(out: Path, columns: Sequence[str], jobs: Iterable, make: Callable, workers: int, bar: tqdm) -> None:
    manifest, rejected = out / "manifest.tsv", out / "rejected.txt"
    known = _repair(manifest, columns) | _whole_lines(rejected)
    for stray in out.glob("audio/**/*.part"):  # of a worker that was killed
        stray.unlink()

    def missing():
        for job in jobs:
            if job.id in known:
                bar.update()
            else:
                known.add(job.id)
                yield job

    # The parent alone writes, one whole line after the recording is in place.
    with manifest.open("a", encoding="utf-8") as rows, rejected.open("a", encoding="utf-8") as refused, bar:
        for job, future in in_order(make, missing(), out, workers):
            try:
                row = future.result()
            except TasteError as error:
                print(job.id, " ".join(str(error).split()), sep="\t", file=refused, flush=True)
            else:
                print(*(row[column] for column in columns), sep="\t", file=rows, flush=True)
            bar.update()


def in_order(make: Callable, jobs: Iterable, out: Path, workers: int) -> Iterator[tuple[object, Future]]:
    """Run make(job, out) in worker processes, a few jobs ahead; (job, future) in the order of the jobs."""
    jobs, ahead = iter(jobs), 4 * workers
    with ProcessPoolExecutor(workers, get_context("spawn"), start_worker) as pool:
        waiting = deque()
        while True:
            waiting.extend((job, pool.submit(make, job, out)) for job in itertools.islice(jobs, ahead - len(waiting)))
            if not waiting:
                return
            yield waiting.popleft()


def start_worker() -> None:
    """One thread per worker process, and no life without the parent: it would wait for work for ever."""
    import torch

    torch.set_num_threads(1)

    def watch():
        parent_process().join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _repair(manifest: Path, columns: Sequence[str]) -> set[str]:
    """Drop what `_is_whole` refuses, such as a half-written last line; returns the ids that are complete."""
    text = manifest.read_text(encoding="utf-8", errors="replace") if manifest.exists() else ""
    lines = text.splitlines(keepends=True)
    header = "\t".join(columns) + "\n"
    if lines and lines[0] != header:
        raise TasteError(f"{manifest} belongs to another kind of corpus; choose another --out.")
    rows = [line.rstrip("\n").split("\t") for line in lines[1:] if line.endswith("\n")]
    rows = [
        row
        for row in rows
        if len(row) == len(columns) and _is_whole(dict(zip(columns, row, strict=True)), manifest.parent)
    ]
    write_whole(manifest, header + "".join("\t".join(row) + "\n" for row in rows))
    return {row[0] for row in rows}


def _is_whole(row: dict[str, str], folder: Path) -> bool:
    """Whether a line of the manifest can be read, and its recording is there and begins as one."""
    try:
        json.loads(row.get("words") or "[]"), json.loads(row.get("prosody") or "{}")
        sound = 0 <= float(row.get("seconds", 0)) < math.inf and soundfile.info(str(folder / row["audio"])).frames > 0
    except (ValueError, soundfile.LibsndfileError):
        return False
    return sound and Path(row["audio"]).stem == row["id"]


def _whole_lines(rejected: Path) -> set[str]:
    """Drop a half-written last line; returns the ids that are named."""
    text = rejected.read_text(encoding="utf-8", errors="replace") if rejected.exists() else ""
    lines = text.splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    write_whole(rejected, "".join(whole))
    return {line.rstrip("\n").split("\t")[0] for line in whole}


def hours_by(rows: Iterable, column: str) -> dict[str, float]:
    """Hours of the rows of a manifest, which have `seconds`, for every value of a column."""
    sums = {}
    for row in rows:
        sums[getattr(row, column)] = sums.get(getattr(row, column), 0.0) + row.seconds / 3600
    return {value: round(hours, 3) for value, hours in sorted(sums.items())}
