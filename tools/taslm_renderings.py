"""Speak the held-out sentences of a corpus in three voices each, for pairs in which the speaker changes.

    python tools/taslm_renderings.py CORPUS OUT     # then: taste-min extract OUT --out CODES

In the corpus every held-out sentence has one training voice. A run that was interrupted continues.
"""

import sys
from pathlib import Path

from taste_min.corpus import COLUMNS, TRAIN_VOICES, Job, load_manifest
from taste_min.corpus_build import make
from taste_min.corpus_files import fill


def jobs(corpus: Path) -> list[Job]:
    """The test sentences, evenly spoken, by their own voice and the two that follow it."""
    made = {}
    for row in load_manifest(corpus):
        if row.split == "test":
            place = TRAIN_VOICES.index(row.speaker)
            for voice in (TRAIN_VOICES[(place + k) % len(TRAIN_VOICES)] for k in range(3)):
                name = f"{row.id.split('-')[0]}-{voice}-plain"
                made[name] = Job(name, row.text, voice, "plain", "test")
    return list(made.values())


if __name__ == "__main__":
    corpus, out = map(Path, sys.argv[1:3])
    fill(out, COLUMNS, jobs(corpus), make, 1, len(jobs(corpus)))
