"""Judge trained language models: results/full/taslm.json, in the keys that tests/claims.yaml names.

    python tools/score_taslm.py CODES RUNS [--voices CODES2] [--out FILE]

CODES: what `taste-min extract` wrote of the corpus; CODES2: of tools/taslm_renderings.py, for pairs of speakers, pitch
and emphasis, stories and questions. RUNS: folder with the runs taslm_token, taslm_embedding, unit_lm, taslm_text,
taslm_codes and taslm_no_kl of `taste-min train`; what is not there is left out.
"""

import argparse
import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from experiments.set_report import SetReport
from experiments.taslm_eval import (
    CODES,
    TEXT,
    difference,
    other_emphasis,
    other_pitch,
    other_rate,
    other_speaker,
    pairs_of,
    perplexity_rise,
    prefers_consistent,
    rise_difference,
    share,
    text_losses,
    unigram_losses,
    utterance_losses,
)

from taste_min.bootstrap import Interval, bca_interval, merge_groups, ratio
from taste_min.config import mini
from taste_min.data import FeatureStore
from taste_min.errors import TasteError
from taste_min.export import load_quantizer
from taste_min.repro import commit
from taste_min.stages import STAGES
from taste_min.taslm_files import load_adapter
from taste_min.tokenizer import CHECKPOINTS

PROSE_STEP = 4  # every fourth sentence of the book is read
ROOT = Path(__file__).resolve().parent.parent
NAMES = {"taslm_token": "token", "taslm_embedding": "embedding", "taslm_text": "text_alone"}
NAMES |= {"taslm_codes": "codes_alone", "taslm_no_kl": "no_kl", "unit_lm": "units"}
RUNS = tuple(NAMES)
FEW = 48  # pairs for a model that cannot tell them apart
KINDS = {"rate": other_rate, "speaker": other_speaker, "pitch": other_pitch, "emphasis": other_emphasis}


def load(stage: str, runs: Path):
    """The objective of a run with its exported weights, on SmolLM2."""
    objective = STAGES[stage].objective(mini())
    load_adapter(objective.model, runs / stage / "export" / f"{stage}.safetensors")
    return objective.eval()


def book_prose() -> list[str]:
    """Sentences of the book in plain English, without code or markup: written text unlike the corpus, which no stage
    has seen."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "book").glob("*.md"))]
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        texts += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    found = {}
    for paragraph in "\n\n".join(texts).split("\n\n"):
        for sentence in re.split(r"(?<=[.?!])\s+", " ".join(paragraph.split())):
            if re.fullmatch(r"[A-Z][A-Za-z0-9 ,.;:?'()-]+[.?!]", sentence) and len(sentence.split()) >= 10:
                found[sentence] = None
    return list(found)


def with_units(codes: Path, test: FeatureStore, plain: list[int]) -> tuple[FeatureStore, list[int]]:
    """The store of `codes` and its rows of the utterances `plain` of the test set. Raises TasteError without units."""
    store = FeatureStore(codes, "test")
    places = {row["id"]: i for i, row in enumerate(store.rows) if row["n_runs"]}
    missing = [test.rows[i]["id"] for i in plain if test.rows[i]["id"] not in places]
    if missing:
        raise TasteError(f"{codes} has no units of {missing[0]}; extract it without --no-units.")
    return store, [places[test.rows[i]["id"]] for i in plain]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codes", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--voices", type=Path, help="codes of what tools/taslm_renderings.py spoke")
    parser.add_argument("--unit-codes", type=Path, help="codes with units for unit_lm, when CODES has none")
    parser.add_argument("--unit-stories", type=int, help="judge the unit model, which is slow, on the first so many")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "full" / "taslm.json")
    args = parser.parse_args(argv)
    train, test = FeatureStore(args.codes, "train"), FeatureStore(args.codes, "test")
    voices = FeatureStore(args.voices, "test") if args.voices else None
    if voices and voices.fingerprint != test.fingerprint:
        raise TasteError(f"{args.voices} and {args.codes} were made by different quantizers; extract them again.")
    texts = [row["text"] for row in test.rows]
    plain = [i for i, row in enumerate(test.rows) if row["style"] == "plain"]
    prose = book_prose()[::PROSE_STEP]
    results, losses, pairs, read = {}, {}, {}, {}

    def put(name: str, interval: Interval, **facts) -> None:
        results[name] = asdict(interval) | facts
        print(name, {key: round(value, 4) for key, value in results[name].items()}, flush=True)

    sets = SetReport(voices, put, args.unit_stories)
    if (args.runs / "unit_lm" / "export").is_dir():
        sets.check_units()
    for stage in RUNS:
        if not (args.runs / stage / "export" / f"{stage}.safetensors").is_file():
            print(f"{stage} was not trained")
            continue
        objective, name = load(stage, args.runs), NAMES[stage]
        # the baseline has ten times the positions: one rendering of each sentence
        if stage == "unit_lm":
            losses[name] = utterance_losses(objective, *with_units(args.unit_codes or args.codes, test, plain))
        else:
            losses[name] = utterance_losses(objective, test)
        if stage == "taslm_token":
            losses["shuffled_text"] = utterance_losses(objective, test, shuffle=0)
        if stage in ("taslm_token", "taslm_embedding"):
            losses[f"{name}_hearing_others"] = utterance_losses(objective, test, hears_others=True)
        if stage in ("taslm_token", "taslm_embedding", "taslm_text"):
            for kind, switched in KINDS.items():
                store = test if kind == "rate" else voices
                if store and (found := pairs_of(store, switched)):
                    found = found[:FEW] if stage == "taslm_text" else found  # it hears no codes
                    owners = [store.rows[pair.kept]["text"] for pair in found]
                    pairs[name, kind] = prefers_consistent(objective, store, found), owners
                    put(f"{name}_{kind}_pairs", share(*pairs[name, kind]), n=len(found))
        sets.measure(name, objective)
        if stage in ("taslm_token", "taslm_no_kl", "taslm_embedding", "taslm_text"):
            read[name] = text_losses(objective.model, prose, adapted=True)
            if "before" not in read:
                read["before"] = text_losses(objective.model, prose, adapted=False)

    def compare(key: str, worse: str, better: str, columns: slice) -> None:
        """How much more `worse` loses than `better`, on all test sentences or on those that both have."""
        if worse in losses and better in losses:
            a, b, owners = losses[worse], losses[better], texts
            if "units" in (worse, better):
                owners = [texts[i] for i in plain]
                a, b = (table if len(table) == len(plain) else table[plain] for table in (a, b))
            put(key, difference(a[:, columns], b[:, columns], owners))

    for name, vectors in (("unigram", False), ("mean_vector", True)):
        sums = unigram_losses(train, test, load_quantizer(CHECKPOINTS / "mini", mini()), vectors)
        losses[name] = np.hstack([np.zeros_like(sums), sums])
    for name, table in losses.items():
        for what, columns in (("text", TEXT), ("code", CODES)):
            if table[:, columns][:, 1].all():
                owners = texts if len(table) == len(texts) else [texts[i] for i in plain]
                put(f"{name}_{what}_loss", bca_interval(merge_groups(table[:, columns], owners), ratio))
    compare("unigram_minus_token_code_loss", "unigram", "token", CODES)
    compare("codes_alone_minus_token_code_loss", "codes_alone", "token", CODES)
    compare("codes_alone_minus_shuffled_text_code_loss", "codes_alone", "shuffled_text", CODES)
    compare("text_alone_minus_token_text_loss", "text_alone", "token", TEXT)
    compare("token_hearing_others_minus_token_code_loss", "token_hearing_others", "token", CODES)
    compare("embedding_hearing_others_minus_embedding_code_loss", "embedding_hearing_others", "embedding", CODES)
    compare("unigram_minus_embedding_vector_loss", "mean_vector", "embedding", CODES)
    compare("text_alone_minus_embedding_text_loss", "text_alone", "embedding", TEXT)
    compare("units_minus_token_text_loss", "units", "token", TEXT)
    for name in set(read) - {"before"}:
        key = {"token": "perplexity_rise_with_kl", "no_kl": "perplexity_rise_without_kl"}
        put(key.get(name, f"perplexity_rise_{name}"), perplexity_rise(read[name], read["before"]))
    if {"token", "no_kl"} <= set(read):
        put("perplexity_rise_without_kl_minus_with", rise_difference(read["no_kl"], read["token"], read["before"]))
    acoustic = {}
    for name in ("token", "embedding"):
        heard = [pairs[name, kind] for kind in KINDS if (name, kind) in pairs]
        if heard:
            acoustic[name] = np.concatenate([chosen for chosen, _ in heard])
            owners = [owner for _, some in heard for owner in some]
            put(f"{name}_acoustic_pairs", share(acoustic[name], owners), n=len(owners))
    if len(acoustic) == 2:
        put("token_minus_embedding_acoustic_pairs", share(acoustic["token"] - acoustic["embedding"], owners))
    sets.compare()
    results["replies"] = sets.said()
    results["run"] = {
        "commit": commit(),
        "device": f"{torch.get_num_threads()} cpu thread(s), float32",
        "utterances": len(test),
        "sentences": len(set(texts)),
        "stories": len(sets.stories),
        "questions": len(sets.questions),
        "prose_words": sum(len(text.split()) for text in prose),
        "stages": {stage: manifest(args.runs, stage) for stage in RUNS if (args.runs / stage / "export").is_dir()},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def manifest(runs: Path, stage: str) -> dict:
    """How much a run saw, for the record."""
    entry = json.loads((runs / stage / "export" / "manifest.json").read_text(encoding="utf-8"))["stages"][stage]
    names = ("steps", "seed", "positions", "positions_per_second", "flops", "hours", "commit", "codebooks")
    return {name: entry[name] for name in names if name in entry}


if __name__ == "__main__":
    main()
