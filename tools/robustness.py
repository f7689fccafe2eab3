"""What noise and wrong transcripts cost: beyond the recordings that chapter 7 measures.

    python tools/robustness.py CORPUS [--limit 10]

Held-out recordings, each said again under every condition. Noise is white and added to what is encoded, so voice and
codes both hear it; the transcript stays right. Wrong words replace a share of the transcript, drawn from the texts of
the same recordings, before encoding; speech is aligned with what it was told to say and the judge's text compared with
what the recording says. `shuffled` gives each word the codes of another: what codes are worth. The comparison is always
with the clean recording. Writes results/full/robustness.json; a run that was interrupted continues.

Axes: S samples, W words.
"""

import argparse
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from bars import ROOT, weights

from taste_min import metrics
from taste_min.audio import SAMPLE_RATE, WINDOW_SECONDS
from taste_min.bootstrap import paired_difference
from taste_min.evaluate import METRICS, aggregate, table
from taste_min.evaluate_command import Partial, write_json
from taste_min.judge import Judge
from taste_min.recordings import Recording, read_recordings
from taste_min.repro import commit, versions
from taste_min.sides import Side, compare_sides
from taste_min.systems import Spoken
from taste_min.tokenizer import Taste

OUT = ROOT / "results" / "full" / "robustness.json"
NOISE = {"clean": None, "20db": 20, "10db": 10, "5db": 5}  # dB above the noise
WRONG = {"words_5": 0.05, "words_10": 0.1, "words_20": 0.2}  # share of the words
SEED = 0


def add_noise(wav: torch.Tensor, decibel: float | None, generator: torch.Generator) -> torch.Tensor:
    """White noise so many dB below the recording (S,)."""
    if decibel is None:
        return wav
    noise = torch.randn(wav.shape, generator=generator)
    return wav + noise * (wav.square().mean() / noise.square().mean() / 10 ** (decibel / 10)).sqrt()


def wrong_texts(texts: list[str], share: float, rng: np.random.Generator) -> tuple[list[str], list[int]]:
    """The texts with `share` of all words replaced by words of other texts, and how many were in each."""
    words = [text.split() for text in texts]
    places = [(i, j) for i, text in enumerate(words) for j in range(len(text))]
    counts, wrong = [0] * len(texts), [list(text) for text in words]
    for place in rng.permutation(len(places))[: round(share * len(places))]:
        i, j = places[place]
        same = metrics.normalize(words[i][j])
        others = [w for k, text in enumerate(words) for w in text if k != i and metrics.normalize(w) != same]
        wrong[i][j] = others[rng.integers(len(others))]
        counts[i] += 1
    return [" ".join(text) for text in wrong], counts


def hear(wav: torch.Tensor, text: str) -> Side:
    """Times and pitch of the words, without scores."""
    words = metrics.word_times(wav, text)
    return Side(wav, words, None if words is None else metrics.word_sound(wav, words), None, {})


def measure(taste: Taste, judge: Judge, recording: Recording, told: dict[str, tuple[str, int]], seed: int) -> list:
    """Rows of one recording, one per condition and system. told: the wrong text of a condition, and its wrong words."""
    clean, generator = recording.load(), torch.Generator().manual_seed(seed)
    noisy = {name: add_noise(clean, decibel, generator) for name, decibel in NOISE.items()}
    tokens = {name: taste.encode(wav, recording.text) for name, wav in noisy.items()}
    tokens |= {name: taste.encode(clean, text) for name, (text, _) in told.items()}
    host, ring = tokens["clean"], torch.randperm(len(tokens["clean"].words), generator=generator)
    order = torch.empty_like(ring).scatter(0, ring, ring.roll(1))  # no word keeps its codes
    tokens["shuffled"] = replace(host, codes=host.codes[order], embeddings=host.embeddings[order])
    said = dict(zip(tokens, taste.decode_many(list(tokens.values()), seed=seed), strict=True))
    text_only = taste.decode_many([tokens[name] for name in NOISE], text_only=True, seed=seed)
    said |= {f"{name}_text_only": one for name, one in zip(NOISE, text_only, strict=True)}
    wavs = {name: Spoken(one.wav, one.sample_rate).at_16k() for name, one in said.items()}
    wavs = {name: wav[: WINDOW_SECONDS * SAMPLE_RATE] for name, wav in wavs.items()}
    wavs |= {f"{name}_recording": wav for name, wav in noisy.items()}
    rows, original = [], hear(clean, recording.text)
    for name, heard in zip(wavs, judge.transcribe(list(wavs.values())), strict=True):
        text, wrong = told.get(name, (recording.text, 0))
        errors = metrics.word_errors(recording.text, heard)
        row = {"id": recording.id, "text": recording.text, "condition": name, "told": text, "wrong_words": wrong}
        row |= {"heard": heard, "word_errors": errors.errors, "reference_words": errors.words}
        if not name.endswith("_recording"):
            row |= compare_sides(original, hear(wavs[name], text), ["visqol"])
            row.pop("word_energy_db", None)
        rows.append(row)
    return rows


def summarise(rows: list[dict]) -> dict:
    """Metrics of every condition, and the differences that the claims name."""
    by = {name: [row for row in rows if row["condition"] == name] for name in {row["condition"]: None for row in rows}}

    def minus(first: str, second: str, metric: str) -> dict:
        return asdict(paired_difference(table(by[first], metric), table(by[second], metric), METRICS[metric][0]))

    duration, f0 = "duration_consistency_50ms", "word_f0_correlation"
    clean = sum(row["word_errors"] for row in by["clean"])
    risen = sum(row["word_errors"] - clean / len(by["clean"]) for name in WRONG for row in by[name])
    return {
        "wer_20db_minus_clean": minus("20db", "clean", "wer"),
        "wer_5db_minus_10db": minus("5db", "10db", "wer"),
        "wer_5db_minus_clean": minus("5db", "clean", "wer"),
        "wer_rise_per_wrong_word": risen / sum(row["wrong_words"] for name in WRONG for row in by[name]),
        "duration_consistency_drop_at_5_percent": minus("clean", "words_5", duration),
        "shuffled_minus_text_only_duration_consistency_50ms": minus("shuffled", "clean_text_only", duration),
        "clean_minus_shuffled_word_f0_correlation": minus("clean", "shuffled", f0),
        "conditions": {name: aggregate(found) for name, found in by.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder with manifest.tsv")
    parser.add_argument("--limit", type=int, default=10, help="recordings (default: 10)")
    args = parser.parse_args()
    started, taste, judge = time.monotonic(), Taste.from_pretrained("mini"), Judge.load("tiny.en", "cpu")
    recordings = read_recordings(str(args.corpus / "manifest.tsv"), "test")
    # each text once, in the order of the manifest, whose beginning is balanced over voices
    recordings = list({one.text: one for one in reversed(recordings)}.values())[::-1][: args.limit]
    rng, texts = np.random.default_rng(SEED), [one.text for one in recordings]
    wrong = {name: wrong_texts(texts, share, rng) for name, share in WRONG.items()}
    run = {"seed": SEED, "device": "cpu", "judge": "tiny.en", "weights_manifest_sha256": weights()}
    partial = Partial(Path(f"{OUT}.partial"), run | {"limit": args.limit}, batch=1)
    for number in range(len(partial.rows), len(recordings)):
        told = {name: (found[number], counts[number]) for name, (found, counts) in wrong.items()}
        partial.add([{"rows": measure(taste, judge, recordings[number], told, SEED + number)}])
        print(f"recording {number + 1} of {len(recordings)}: {time.monotonic() - started:.0f} s", flush=True)
    rows = [row for one in partial.rows for row in one["rows"]]
    run |= {"n_recordings": len(recordings), "commit": commit(), "versions": versions()}
    run["seconds"] = round(time.monotonic() - started, 1)
    write_json(OUT, summarise(rows) | {"utterances": rows, "run": run})
    Path(f"{OUT}.partial").unlink()


if __name__ == "__main__":
    main()
