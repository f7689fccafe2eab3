"""Makes the mini corpus: speaks, aligns and writes what is missing, utterance by utterance (extra `corpus`).

What an utterance sounds like follows from its id alone, so an interrupted build continues where it stopped and two
builds agree.
"""

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from . import assets
from .align import align
from .corpus import COLUMNS, Job, load_manifest, plan
from .corpus_files import fill, hours_by, write_recording
from .errors import TasteError
from .prosody import Prosody, prosody_of
from .synth import speak
from .voices import SAMPLE_RATE, VOICES, libraries


def manner_of(job: Job) -> tuple[Prosody, int]:
    """How an utterance is spoken, and the seed of its random numbers."""
    seed = int(hashlib.sha256(job.id.encode()).hexdigest()[:8], 16)
    return prosody_of(job.style, len(job.text.split()), random.Random(seed)), seed


def make(job: Job, out: Path, manner: tuple[Prosody, int] | None = None) -> dict[str, str]:
    """Speak, align and write one utterance, in its own manner by default; returns its manifest row.

    Raises TasteError when it cannot be aligned.
    """
    import torch
    from torchaudio.functional import resample

    prosody, seed = manner or manner_of(job)
    wav = speak(job.text, job.speaker, prosody, seed).wav
    words = align(resample(torch.from_numpy(wav), SAMPLE_RATE, 16_000), job.text)
    path = out / "audio" / job.speaker / f"{job.id}.flac"
    write_recording(path, wav, SAMPLE_RATE)
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
    """Make every utterance of `plan(hours)` in `voices` that `out` does not hold yet; returns a summary."""
    jobs = [job for job in plan(hours) if job.speaker in voices]
    fill(out, COLUMNS, jobs, make, workers, len(jobs), progress)
    return summary(out)


def summary(out: Path) -> dict:
    """Hours and utterances of a corpus folder: in all, by split and by voice."""
    rows = load_manifest(out)
    return {
        "folder": str(out),
        "synthetic": True,
        "utterances": len(rows),
        "hours": round(sum(row.seconds for row in rows) / 3600, 3),
        "hours_by_split": hours_by(rows, "split"),
        "hours_by_voice": hours_by(rows, "speaker"),
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
