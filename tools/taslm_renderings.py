"""Speak what the language models are judged on: held-out sentences in several manners, stories and questions.

    python tools/taslm_renderings.py CORPUS OUT [--stories 58] [--thirds 12] [--pitch 34] [--emphasis 104]

then `taste-min extract OUT --out CODES` and `tools/score_taslm.py --voices CODES`. A run that was interrupted goes on.
The voice joe takes a fraction of the time of the others (Kokoro), so it speaks what any voice can:

    speakers   every held-out sentence of the corpus evenly by its own voice (the recording of the corpus), by joe or,
               where joe is its own, by another; the first `thirds` of the rest by a third one
    pitch      the first `pitch` sentences of Kokoro voices once more, lower and higher at the same rate
    emphasis   the first `emphasis` held-out sentences by joe, evenly and with every second word slow and loud and the
               others quick and soft, so that the tempo of the whole stays; joe's pitch cannot be set
    stories    every sentence of the first `stories` pairs of stories, by the voice that no stage has heard
    questions  by joe
"""

import argparse
import csv
import os
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.spoken_sets import own_questions, own_stories

from taste_min.corpus import COLUMNS, HELD_OUT_VOICE, TRAIN_VOICES, Job, job_of, load_manifest, sentences
from taste_min.corpus_build import make, manner_of
from taste_min.corpus_files import fill
from taste_min.prosody import Prosody

PITCH = {"low": 0.85, "high": 1.18}  # factors
EMPHASIS = ((0.75, 3.0), (1.35, -3.0))  # rate factor and decibels of every second word, and of the others
CHEAP, *OTHERS = TRAIN_VOICES


@dataclass(frozen=True)
class Spoken(Job):
    """An utterance that the corpus holds: its line there."""

    row: dict[str, str]


def manner(job: Job) -> tuple[Prosody, int]:
    """Prosody and seed. All manners of a sentence and voice start from the even one, so nothing else differs."""
    n_words = len(job.text.split())
    prosody, seed = manner_of(job_of(job.text, job.speaker, "plain", job.split))
    if job.style == "even":
        prosody = Prosody([1.0] * n_words, [1.0] * n_words, [0.0] * n_words)
    elif job.style in PITCH:
        prosody = replace(prosody, pitch=[PITCH[job.style]] * n_words)
    elif job.style == "emphatic":
        turns = [EMPHASIS[i % 2] for i in range(n_words)]
        rates = [round(rate * factor, 3) for rate, (factor, _) in zip(prosody.rate, turns, strict=True)]
        prosody = replace(prosody, rate=rates, gain=[gain for _, gain in turns])
    return prosody, seed


def speak(job: Job, out: Path) -> dict[str, str]:
    """The manifest row of an utterance, which is made unless the corpus holds it."""
    return job.row if isinstance(job, Spoken) else make(job, out, manner(job))


def corpus_rows(corpus: Path, out: Path) -> dict[str, dict[str, str]]:
    """Lines of the evenly spoken held-out sentences by text, with the place of the recording as seen from `out`."""
    load_manifest(corpus)  # says what is wrong with it
    with (corpus / "manifest.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return {
        row["text"]: row | {"audio": os.path.relpath(corpus / row["audio"], out)}
        for row in rows
        if row["split"] == "test" and row["style"] == "plain"
    }


def jobs(corpus: Path, out: Path, stories: int, thirds: int, pitch: int, emphasis: int) -> list[Job]:
    """Everything to speak; see above."""
    known, texts, made = corpus_rows(corpus, out), sentences()["test"], []
    made += [Spoken(row["id"], text, row["speaker"], "plain", "test", row) for text, row in known.items()]
    others = [text for text, row in known.items() if row["speaker"] != CHEAP]
    for place, (text, row) in enumerate(known.items()):
        second = CHEAP if row["speaker"] != CHEAP else OTHERS[place % len(OTHERS)]
        made.append(job_of(text, second, "plain", "test"))
    for text in others[:thirds]:
        third = OTHERS[(OTHERS.index(known[text]["speaker"]) + 1) % len(OTHERS)]
        made.append(job_of(text, third, "plain", "test"))
    made += [job_of(text, known[text]["speaker"], style, "test") for text in others[:pitch] for style in PITCH]
    made += [job_of(text, CHEAP, style, "test") for text in texts[:emphasis] for style in ("plain", "emphatic")]
    told = [text for story in own_stories(stories) for text in (*story.context, story.right, story.wrong)]
    made += [job_of(text, HELD_OUT_VOICE, "even", "test") for text in told]
    made += [job_of(question.text, CHEAP, "even", "test") for question in own_questions()]
    return made  # of two with the same id the first counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    for option, number in (("stories", 58), ("thirds", 12), ("pitch", 34), ("emphasis", 104)):
        parser.add_argument(f"--{option}", type=int, default=number)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    planned = jobs(args.corpus, args.out, args.stories, args.thirds, args.pitch, args.emphasis)
    fill(args.out, COLUMNS, planned, speak, args.workers, len(planned))
