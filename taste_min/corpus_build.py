"""Makes the mini corpus: speaks, aligns and writes what is missing, utterance by utterance (extra `corpus`).

What an utterance sounds like follows from its id alone, so an interrupted build continues where it stopped and two
builds agree.
"""

import hashlib
import itertools
import json
import os
import random
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

import numpy as np
import soundfile
from filelock import FileLock, Timeout
from tqdm import tqdm

from . import assets
from .align import align
from .corpus import COLUMNS, Job, load_manifest, plan
from .errors import TasteError
from .prosody import prosody_of
from .synth import speak
from .voices import SAMPLE_RATE, VOICES, libraries


def make(job: Job, out: Path) -> dict[str, str]:
    """Speak, align and write one utterance; returns its manifest row. Raises TasteError when it cannot be aligned."""
    import torch
    from torchaudio.functional import resample

    seed = int(hashlib.sha256(job.id.encode()).hexdigest()[:8], 16)
    prosody = prosody_of(job.style, len(job.text.split()), random.Random(seed))
    wav = speak(job.text, job.speaker, prosody, seed).wav
    words = align(resample(torch.from_numpy(wav), SAMPLE_RATE, 16_000), job.text)
    path = out / "audio" / job.speaker / f"{job.id}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    soundfile.write(partial, wav, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    partial.replace(path)
    return {
        "id": job.id,
        "audio": str(path.relative_to(out)),
        "text": job.text,
        "speaker": job.speaker,
        "rate": f"{np.mean(prosody.rate):.3f}",
        "style": job.style,
        "split": job.split,
        "seconds": f"{len(wav) / SAMPLE_RATE:.3f}",
        "words": json.dumps([[word.text, round(word.start, 3), round(word.end, 3)] for word in words]),
        "prosody": json.dumps({"rate": prosody.rate, "pitch": prosody.pitch, "gain": prosody.gain}),
    }


def build(
    hours: float, out: Path, workers: int = 1, voices: Sequence[str] = tuple(VOICES), progress: bool = True
) -> dict:
    """`make_all` while nobody else builds in the same folder; the system drops the lock when a process is killed."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            return make_all(hours, out, workers, voices, progress)
    except Timeout as error:
        raise TasteError(f"another build is running in {out}; wait for it, or choose another --out.") from error


def make_all(hours: float, out: Path, workers: int, voices: Sequence[str], progress: bool) -> dict:
    """Make every utterance of `plan(hours)` in `voices` that `out` does not hold yet; returns a summary.

    The parent alone appends to the manifest, one whole line after the recording is in place, so the process may be
    killed at any moment. Utterances that cannot be aligned are named in `rejected.txt` and not tried again.
    """
    manifest, rejected = out / "manifest.tsv", out / "rejected.txt"
    done = _repair(manifest)
    refused = set(rejected.read_text(encoding="utf-8").split()) if rejected.exists() else set()
    jobs = [job for job in plan(hours) if job.speaker in voices]
    todo = [job for job in jobs if job.id not in done and job.id not in refused]
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(todo), unit="utt", disable=not progress, mininterval=5)
    with (
        manifest.open("a", encoding="utf-8") as file,
        ProcessPoolExecutor(workers, get_context("spawn"), _die_with_parent) as pool,
    ):
        waiting = {}
        queue = iter(todo)
        while True:
            for job in itertools.islice(queue, 2 * workers - len(waiting)):
                waiting[pool.submit(make, job, out)] = job
            if not waiting:
                break
            wait(waiting, return_when=FIRST_COMPLETED)
            for future in [future for future in waiting if future.done()]:  # in the order of the plan
                job = waiting.pop(future)
                try:
                    row = future.result()
                except TasteError:
                    with rejected.open("a", encoding="utf-8") as names:
                        names.write(job.id + "\n")
                else:
                    file.write("\t".join(row[column] for column in COLUMNS) + "\n")
                    file.flush()
                bar.update()
    bar.close()
    return summary(out)


def _die_with_parent() -> None:
    """Ends this worker when the parent is killed; it would wait for work for ever."""

    def watch():
        parent_process().join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _repair(manifest: Path) -> set[str]:
    """Drop a half-written last line and lines without their recording; returns the ids that are complete."""
    lines = manifest.read_text(encoding="utf-8").splitlines(keepends=True) if manifest.exists() else []
    whole = [line.split("\t") for line in lines[1:] if line.endswith("\n")]
    whole = [row for row in whole if len(row) == len(COLUMNS) and (manifest.parent / row[1]).is_file()]
    partial = manifest.with_suffix(".part")
    partial.write_text("\t".join(COLUMNS) + "\n" + "".join("\t".join(row) for row in whole), encoding="utf-8")
    partial.replace(manifest)
    return {row[0] for row in whole}


def summary(out: Path) -> dict:
    """Hours and utterances of a corpus folder: in all, by split and by voice."""
    rows = load_manifest(out)

    def hours(selected):
        return round(sum(row.seconds for row in selected) / 3600, 3)

    return {
        "folder": str(out),
        "synthetic": True,
        "utterances": len(rows),
        "hours": hours(rows),
        "hours_by_split": {s: hours(r for r in rows if r.split == s) for s in sorted({r.split for r in rows})},
        "hours_by_voice": {v: hours(r for r in rows if r.speaker == v) for v in sorted({r.speaker for r in rows})},
    }


def command(args) -> int:
    """`taste-min corpus build`: args.hours, args.out, args.workers, args.json."""
    if not 0 < args.hours <= 100 or args.workers < 1:
        raise TasteError("--hours must lie in 0..100 and --workers must be at least 1.")
    unknown = [voice for voice in args.voices if voice not in VOICES]
    if unknown:
        raise TasteError(f"there is no voice {unknown[0]!r}; choose from {', '.join(VOICES)}.")
    libraries()  # says what to install before any work
    for name in ("kokoro", "piper-joe"):
        assets.fetch(name)
    result = build(args.hours, Path(args.out), args.workers, args.voices or tuple(VOICES))
    print(json.dumps(result, indent=2) if args.json else f"{result['hours']} h of synthetic speech in {args.out}")
    return 0
