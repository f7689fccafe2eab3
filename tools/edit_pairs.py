"""Text-aligned editing, measured: words of a held-out sentence take the codes of another rendering (section 4.4).

    python tools/edit_pairs.py CORPUS [--pairs 50]
    python tools/edit_pairs.py CORPUS --mutants       the same pairs with broken models

Two kinds of pairs, both of one voice saying one text. Emphasis: an even rendering hosts words of one in which every
word has its own rate and pitch. Tempo: a slow and a fast rendering, as in the authors' demo. The claim is judged on
emphasis: in a tempo pair any word of the donor carries the tempo, and speech from text alone lands halfway, so there
the controls could not fail. Words are chosen by the recordings alone: they differ in duration by CLEAR or more, and no
two are neighbours, so that every swapped word lies between words that must not move.

Each condition becomes results/full/NAME.json: metrics on emphasis pairs, under `tempo` the others, rows, and the run.
The numbers without rows lie beside the weights, where chapter 8 reads them.
Host and donor are the recordings, as in `taste-min evaluate`; in editing_spoken they are the model's own renderings.
Mutants encode host and donor with a broken model and swap as the sound one does; they take the pairs of editing.json
that CORPUS still has. A run that was interrupted continues, and can be summed up early with fewer pairs.

Axes: S samples, W words.
"""

import argparse
import json
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from bars import ROOT, weights

from taste_min.audio import SAMPLE_RATE, WINDOW_SECONDS, read_audio
from taste_min.corpus import Utterance, load_manifest
from taste_min.evaluate import aggregate
from taste_min.evaluate_command import Partial, write_json
from taste_min.metrics import word_sound, word_times
from taste_min.repro import commit, versions
from taste_min.sides import Side, compare_edit
from taste_min.systems import Spoken
from taste_min.tokenizer import Taste
from taste_min.tokens import TasteTokens
from taste_min.transfer import log_seconds

RESULTS = ROOT / "results" / "full"
KINDS = ("emphasis", "tempo")
SUMMARY = ROOT / "taste_min" / "checkpoints" / "mini" / "editing.json"
SPLITS = ("test", "test_voice")
CLEAR, MOST_WORDS, FEWEST_WORDS = 0.15, 5, 2  # natural log of a duration; swapped words of a pair
CONDITIONS = ("", "_permuted", "_off_by_one", "_text_only", "_unedited", "_spoken")
MUTANTS = ("_untrained", "_exchanged")
Measured = dict[str, dict]


def find_pairs(rows: list[Utterance]) -> list[tuple[str, Utterance, Utterance]]:
    """(kind, host, donor) in the order of their ids, which are hashes of the texts; every fifth pair is of tempo."""
    renderings = defaultdict(dict)
    for row in sorted(rows, key=lambda row: row.id):
        if row.split in SPLITS:
            renderings[row.text, row.speaker][row.style] = row
    whole = [styles for styles in renderings.values() if {"plain", "random", "slow", "fast"} <= styles.keys()]
    pairs = []
    for number, styles in enumerate(whole):
        tempo = ("slow", "fast") if number % 10 == 4 else ("fast", "slow")
        kind, (host, donor) = ("tempo", tempo) if number % 5 == 4 else ("emphasis", ("plain", "random"))
        pairs.append((kind, styles[host], styles[donor]))
    return pairs


def choose_words(host: np.ndarray, donor: np.ndarray, rng: np.random.Generator) -> list[int]:
    """Words to swap, from the seconds (W,) of both recordings; no neighbours, and never the last word."""
    clear = np.flatnonzero(np.abs(log_seconds(donor) - log_seconds(host))[:-1] >= CLEAR)
    chosen: list[int] = []
    for word in rng.permutation(clear).tolist():
        if len(chosen) < MOST_WORDS and not {word - 1, word + 1} & set(chosen):
            chosen.append(word)
    return sorted(chosen)


def permute(host: TasteTokens, donor: TasteTokens, words: list[int], rng: np.random.Generator) -> TasteTokens:
    """The edit with the codes of other words of the donor, each at most once."""
    others = rng.permutation([i for i in range(len(donor.words)) if i not in words])[: len(words)].tolist()
    words = words[: len(others)]
    codes, embeddings = host.codes.clone(), host.embeddings.clone()
    codes[words], embeddings[words] = donor.codes[others], donor.embeddings[others]
    return replace(host, codes=codes, embeddings=embeddings)


def hear(wav: torch.Tensor, text: str) -> Side:
    """Only what a transfer coefficient needs. Speech (S,) at 16 kHz; what rambles on is not heard out."""
    wav = wav[: WINDOW_SECONDS * SAMPLE_RATE]
    words = word_times(wav, text)
    return Side(wav, words, None if words is None else word_sound(wav, words), None, {})


def break_model(taste: Taste, name: str) -> Taste:
    """The same object, broken as a mutant's name says: the aggregator where training starts, or K and V exchanged."""
    if name == "_untrained":
        taste.aggregator.load_whisper_decoder(taste.recognizer.whisper.model.decoder, identity_values=False)
    else:
        taste.encoder.register_forward_hook(
            lambda *call: replace(call[-1], last=call[-1].shallow, shallow=call[-1].last)
        )
    return taste


def recorded_pairs(rows: list[Utterance]) -> list[tuple[str, Utterance, Utterance]]:
    """(kind, host, donor) of the pairs in editing.json whose recordings are there."""
    by, pairs = {row.id: row for row in rows}, []
    for measured in json.loads((RESULTS / "editing.json").read_text(encoding="utf-8"))["utterances"]:
        host, style = measured["id"].rsplit("_", 1)
        donor = f"{host.rsplit('-', 1)[0]}-{style}"
        if {host, donor} <= by.keys():
            pairs.append((measured["kind"], by[host], by[donor]))
    return pairs


def choose(host_row: Utterance, donor_row: Utterance, rng: np.random.Generator) -> tuple[list, list[Side], list[int]]:
    """Both recordings (S,), what is heard in them, and the words to swap: none where one cannot be aligned."""
    wavs = [read_audio(row.audio, convert=True) for row in (host_row, donor_row)]
    recorded = [hear(wav, host_row.text) for wav in wavs]
    if any(side.sound is None for side in recorded):
        return wavs, recorded, []
    return wavs, recorded, choose_words(*(side.sound.seconds for side in recorded), rng)


def measure_mutants(broken: dict[str, Taste], kind: str, host: Utterance, donor: Utterance, seed: int) -> Measured:
    """Rows of every mutant, as `measure_pair` gives them."""
    wavs, recorded, swapped = choose(host, donor, np.random.default_rng([seed, int(host.id[:8], 16)]))
    found = {}
    for name, taste in broken.items() if len(swapped) >= FEWEST_WORDS else ():
        tokens = [taste.encode(wav, host.text) for wav in wavs]
        said = taste.decode(tokens[0].swap(tokens[1], swapped), seed=seed)
        heard = hear(Spoken(said.wav, said.sample_rate).at_16k(), host.text)
        found[name] = compare_edit(*recorded, heard, tuple(swapped))
    return about(found, kind, host, donor, swapped)


def about(found: Measured, kind: str, host: Utterance, donor: Utterance, swapped: list[int]) -> Measured:
    """Rows with what they are about, and without what no criterion reads."""
    names = {"id": f"{host.id}_{donor.style}", "kind": kind, "text": host.text, "swapped": swapped}
    for row in found.values():
        row.pop("edit_energy_db", None)
    return {name: names | row for name, row in found.items()}


def measure_pair(taste: Taste, kind: str, host_row: Utterance, donor_row: Utterance, seed: int) -> Measured:
    """Rows of every condition of a pair, by condition; {} where a recording cannot be aligned or few words differ."""
    rng, text = np.random.default_rng([seed, int(host_row.id[:8], 16)]), host_row.text
    wavs, recorded, swapped = choose(host_row, donor_row, rng)
    if len(swapped) < FEWEST_WORDS:
        return {}
    host, donor = (taste.encode(wav, text) for wav in wavs)
    said = [
        host.swap(donor, swapped),
        permute(host, donor, swapped, rng),
        host.swap(donor, [word + 1 for word in swapped]),
        host,
        donor,
    ]
    decoded = taste.decode_many(said, seed=seed) + taste.decode_many([host], text_only=True, seed=seed)
    edited, permuted, off_by_one, unedited, spoken_donor, text_only = (
        hear(Spoken(one.wav, one.sample_rate).at_16k(), text) for one in decoded
    )
    sides = dict(zip(CONDITIONS, (edited, permuted, off_by_one, text_only, unedited), strict=False))
    found = {name: compare_edit(*recorded, side, tuple(swapped)) for name, side in sides.items()}
    found["_spoken"] = compare_edit(unedited, spoken_donor, edited, tuple(swapped))
    return about(found, kind, host_row, donor_row, swapped)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder with manifest.tsv")
    parser.add_argument("--pairs", type=int, default=50, help="how many (default: 50)")
    parser.add_argument("--mutants", action="store_true", help="broken models, on the pairs that were recorded")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    started, rows = time.monotonic(), load_manifest(args.corpus)
    if args.mutants:
        names, pairs, measure = MUTANTS, recorded_pairs(rows), measure_mutants
        model = {name: break_model(Taste.from_pretrained("mini"), name) for name in MUTANTS}
    else:
        names, pairs, measure, model = CONDITIONS, find_pairs(rows), measure_pair, Taste.from_pretrained("mini")
    pairs = pairs[: args.pairs]
    run = {"seed": args.seed, "device": "cpu", "weights_manifest_sha256": weights()}
    partial = Partial(RESULTS / f"editing{names[0]}.json.partial", run, batch=1)
    for number, pair in enumerate(pairs[len(partial.rows) :], len(partial.rows) + 1):
        partial.add([measure(model, *pair, args.seed)])
        print(f"pair {number} of {len(pairs)}: {time.monotonic() - started:.0f} s", flush=True)
    found = [row for row in partial.rows if row]
    run |= {"n_pairs": len(partial.rows), "n_measured": len(found), "commit": commit(), "versions": versions()}
    summary = json.loads(SUMMARY.read_text(encoding="utf-8")) if args.mutants else {}
    summary["run_of_mutants" if args.mutants else "run"] = run
    for name in names:
        rows = [row[name] for row in found]
        summary[f"editing{name}"] = summarise(rows)
        write_json(RESULTS / f"editing{name}.json", summarise(rows) | {"utterances": rows, "run": run})
    write_json(SUMMARY, summary)


def summarise(rows: list[dict]) -> dict:
    """Medians of the transfer coefficients with their intervals over texts: of emphasis pairs, and of tempo pairs."""
    emphasis, tempo = (aggregate([row for row in rows if row["kind"] == kind]) for kind in KINDS)
    return emphasis | {"tempo": tempo}


if __name__ == "__main__":
    main()
