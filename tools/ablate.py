"""The ablation with seeds (taste_min/ablation.py is its protocol): one condition and one seed after the other.

    python tools/ablate.py words --features FOLDER --work WORK     what Whisper attends to, once (two minutes)
    python tools/ablate.py run --features FOLDER --work WORK [--conditions NAME ...] [--seeds N ...]
    python tools/ablate.py check CONDITION SEED --features FOLDER --work WORK
    python tools/ablate.py table                                   results/full/ablation.json from the runs

FOLDER is made by `taste-min train features`; WORK is any folder, for what the runs share. Every finished run is a file
results/full/ablation/CONDITION-SEED.json, and a run that has one is skipped. `check` does one of them again, without
touching its file, on the recorded test utterances, and compares it with what its condition may give.
"""

import argparse
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from experiments.ablation import CONDITIONS, SWEEP, Protocol
from experiments.ablation_data import Corpus, KeptStore, join_units, write_words
from experiments.ablation_run import Setting, layer_statistics, run
from experiments.ablation_table import PARTS, WITH_PAST, measure, read_runs, run_limits, shared_facts, tabulate

from taste_min.aggregator import Aggregator
from taste_min.assets import fetch
from taste_min.config import mini
from taste_min.ct2 import load_whisper
from taste_min.data import FeatureStore
from taste_min.errors import TasteError
from taste_min.evaluate_command import write_json
from taste_min.repro import ROOT, commit
from taste_min.text import load_tokenizer
from taste_min.tokenizer import CHECKPOINTS, Taste
from taste_min.units import MiniUnits

OUT = ROOT / "results" / "full"
WORDS = "words.safetensors"
SPLITS = ("train", "dev", "test")


def make_setting(features: str, work: Path, protocol: Protocol, tested: Sequence[str] | None = None) -> Setting:
    """What the runs share. tested: ids of the utterances they are judged on; default: all of the split."""
    words = work / WORDS
    if not words.is_file():
        raise TasteError(f"there is no {WORDS} in {work}; run `python tools/ablate.py words` first.")
    units = MiniUnits.load(CHECKPOINTS / "mini" / "units.safetensors")
    classes = join_units(units.centroids, protocol.decoder.n_units)
    train, dev, test = (
        Corpus(KeptStore(features, split), protocol.seconds, words, classes, tested if split == "test" else None)
        for split in SPLITS
    )
    tokenizer = load_tokenizer(fetch("whisper-tiny-en"))
    return Setting(protocol, train, dev, test, tokenizer, layer_statistics(train), work)


def words(args, protocol: Protocol) -> None:
    decoder = load_whisper(fetch("whisper-tiny-en")).model.decoder
    whisper = Aggregator(mini().aggregator).load_whisper_decoder(decoder, identity_values=False).eval()
    taste = Taste.from_pretrained("mini")
    values = f"hidden_{taste.config.encoder.shallow_layer}"
    args.work.mkdir(parents=True, exist_ok=True)
    store = FeatureStore(args.features, SPLITS)
    write_words(args.work / WORDS, whisper, taste.aggregator, values, store, protocol.seconds)


def runs(args, protocol: Protocol) -> None:
    setting = make_setting(args.features, args.work, protocol)
    # the commit of the code that runs, whatever is committed meanwhile
    facts = shared_facts(setting) | {
        "commit": commit(),
        "device": f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)",
    }
    for seed in args.seeds:  # seed by seed, so that what is finished is always paired
        for name in args.conditions:
            path = args.out / f"{name}-{seed}.json"
            if path.is_file():
                continue
            record = {"condition": name, **run((CONDITIONS | SWEEP)[name], setting, seed)}
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, facts | record)
            print(name, seed, "dev", record["dev_loss"]["then"][-1], record["seconds"], flush=True)


def check(args, protocol: Protocol) -> None:
    name, seed = args.which[0], int(args.which[1])
    recorded = read_runs(args.out)
    then = recorded[name][seed]
    setting = make_setting(args.features, args.work, protocol, then["utterances"])
    print(f"training on {len(setting.train.rows)} utterances, recorded {then['train']['utterances']}")
    record = run((CONDITIONS | SWEEP)[name], setting, seed)
    for part in PARTS:
        low, high = run_limits(recorded[name], part)
        value, old = (measure(part, x["test"][WITH_PAST]) for x in (record, then))
        inside = "inside" if low <= value <= high else "OUTSIDE"
        print(f"{part}: {value:.4f}, recorded {old:.4f}, {inside} {low:.4f} to {high:.4f}")


def table(args, protocol: Protocol) -> None:
    write_json(OUT / "ablation.json", tabulate(read_runs(args.out)))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("words", "run", "check", "table"))
    parser.add_argument("which", nargs="*", help="for check: CONDITION SEED")
    parser.add_argument("--features", help="folder of `taste-min train features`")
    parser.add_argument("--work", type=Path, help="folder for what the runs share")
    parser.add_argument("--out", type=Path, default=OUT / "ablation", help="folder of the records")
    parser.add_argument("--conditions", nargs="+", choices=[*CONDITIONS, *SWEEP], default=list(CONDITIONS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(6)))
    args = parser.parse_args(arguments)
    {"words": words, "run": runs, "check": check, "table": table}[args.what](args, Protocol())


if __name__ == "__main__":
    main()
