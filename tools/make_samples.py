"""Makes taste_min/samples/: a few minutes of the mini corpus's test sentences in all six (synthetic) voices.

    python tools/make_samples.py

They are utterances of the corpus itself (same ids, same sound): two test sentences per voice, each plain, slow, fast
and word by word, so that notebooks and tests have same-text pairs without a synthesiser.
"""

from pathlib import Path

from tqdm import tqdm

from taste_min.corpus import COLUMNS, HELD_OUT_VOICE, plan
from taste_min.corpus_build import make

OUT = Path(__file__).resolve().parents[1] / "taste_min" / "samples"
PER_VOICE = 8


def main() -> None:
    jobs, count = [], {}
    for job in plan(hours=7):
        wanted = job.split == "test" or (job.split == "test_voice" and job.speaker == HELD_OUT_VOICE)
        if wanted and count.get(job.speaker, 0) < PER_VOICE:
            count[job.speaker] = count.get(job.speaker, 0) + 1
            jobs.append(job)
    rows = [make(job, OUT) for job in tqdm(jobs)]
    lines = ["\t".join(COLUMNS), *("\t".join(row[column] for column in COLUMNS) for row in rows)]
    (OUT / "manifest.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
