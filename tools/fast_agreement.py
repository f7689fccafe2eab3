"""What the faster ways of decoding (fast.py) change on trained weights: results/full/fast_agreement.json.

    python tools/fast_agreement.py CORPUS [--limit 12]

Recordings of the dev split, each text once, by the mini preset. Unit decoder: how often the likeliest unit stays the
same with 8-bit layers, the true past given. Flow: distance of the mel spectrogram from a solution in many steps, same
units and noise. Whole decoder: word errors of the judge, paired with those of the plain one.

Axes: S samples, M mel bands, F mel frames.
"""

import argparse
import copy
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from bars import ROOT, weights

from taste_min import metrics
from taste_min.bootstrap import bca_interval, paired_difference, ratio
from taste_min.evaluate_command import write_json
from taste_min.fast import fast
from taste_min.features import unit_path
from taste_min.judge import Judge
from taste_min.recordings import Recording, read_recordings
from taste_min.repro import commit, versions
from taste_min.systems import Spoken
from taste_min.text import tokenize
from taste_min.tokenizer import Taste
from taste_min.tokens import TasteTokens

OUT = ROOT / "results" / "full" / "fast_agreement.json"
EXACT_STEPS = 100
DECIBEL = 20 / math.log(10)  # of one unit of the natural-log mel
ERRORS = "word_errors", "reference_words"
SEED = 0
VARIANTS = {"plain": {}, "int8": {"int8": True}}
VARIANTS |= {f"int8_{n}_steps": {"int8": True, "steps": n} for n in (6, 5, 4)}


def likeliest(taste: Taste, wav: torch.Tensor, tokens: TasteTokens) -> torch.Tensor:
    """(U + 1,): the likeliest unit at every place of a recording (S,) at 16 kHz, the true past given."""
    units, text = taste.unit_ids(wav), tokenize(taste.tokenizer, [word.text for word in tokens.words])
    path = unit_path(wav, metrics.word_times(wav, tokens.text), len(units))[None]
    lengths = torch.tensor([len(text.token_ids)]), torch.tensor([len(units)])
    speaker, vectors = tokens.speaker_embedding.float()[None], tokens.embeddings[text.word_ids][None]
    ids = text.token_ids[None]
    return (
        taste.unit_decoder(ids, lengths[0], units[None], lengths[1], speaker, vectors, False, path).logits[0].argmax(-1)
    )


def rms(mel: torch.Tensor, exact: torch.Tensor) -> float:
    """Root mean square difference of two mel spectrograms (M, F), in dB."""
    return DECIBEL * float((mel - exact).square().mean().sqrt())


@torch.no_grad()
def measure(tastes: dict[str, Taste], judge: Judge, recording: Recording) -> list[dict]:
    """One row per variant."""
    wav, plain = recording.load(), tastes["plain"]
    tokens = plain.encode(wav, recording.text)
    (written,), truth = plain.write_units([tokens], seed=SEED), likeliest(plain, wav, tokens)
    sounds = None if written.sounds is None else written.sounds[0]
    same = written.units[0], tokens.speaker_embedding, SEED
    exact = plain.synthesize(*same, EXACT_STEPS, sounds).mel
    spoken = {name: taste.decode(tokens, seed=SEED) for name, taste in tastes.items()}
    heard = judge.transcribe([Spoken(one.wav, one.sample_rate).at_16k() for one in spoken.values()])
    rows = []
    for (name, taste), text in zip(tastes.items(), heard, strict=True):
        errors = metrics.word_errors(recording.text, text)
        row = {"id": recording.id, "text": recording.text, "condition": name, "heard": text, "recordings": 1}
        row |= {"word_errors": errors.errors, "reference_words": errors.words, "unit_positions": len(truth)}
        row |= {"same_likeliest": int((likeliest(taste, wav, tokens) == truth).sum())}
        rows.append(row | {"mel_db": rms(taste.synthesize(*same, sounds=sounds).mel, exact)})
    return rows


def column(rows: list[dict], condition: str, *names: str) -> np.ndarray:
    return np.array([[row[name] for name in names] for row in rows if row["condition"] == condition], dtype=float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder with manifest.tsv")
    parser.add_argument("--limit", type=int, default=12, help="recordings (default: 12)")
    args = parser.parse_args()
    plain = Taste.from_pretrained("mini")
    tastes = {name: fast(copy.deepcopy(plain), **how) if how else plain for name, how in VARIANTS.items()}
    judge = Judge.load("tiny.en", "cpu")
    recordings = read_recordings(str(args.corpus / "manifest.tsv"), "dev")
    recordings = list({one.text: one for one in reversed(recordings)}.values())[: args.limit]
    rows = [row for recording in recordings for row in measure(tastes, judge, recording)]
    results = {}
    for name in tastes:
        results[name] = {
            "same_likeliest_unit": asdict(bca_interval(column(rows, name, "same_likeliest", "unit_positions"), ratio)),
            "mel_db": asdict(bca_interval(column(rows, name, "mel_db", "recordings"), ratio)),
            "wer": asdict(bca_interval(column(rows, name, *ERRORS), ratio)),
            "wer_minus_plain": asdict(
                paired_difference(column(rows, name, *ERRORS), column(rows, "plain", *ERRORS), ratio)
            ),
        }
        print(name, {key: round(value["value"], 4) for key, value in results[name].items()}, flush=True)
    run = {
        "seed": SEED,
        "exact_steps": EXACT_STEPS,
        "n_recordings": len(recordings),
        "split": "dev",
        "judge": "tiny.en",
    }
    run |= {"device": f"{torch.get_num_threads()} cpu thread(s)", "commit": commit(), "versions": versions()}
    run["weights_manifest_sha256"] = weights()
    write_json(OUT, results | {"utterances": rows, "run": run})


if __name__ == "__main__":
    main()
