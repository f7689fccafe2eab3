"""Keys and values from every encoder layer: results/full/layer_sweep.json (claims 2 and 3).

    python tools/layer_sweep.py CORPUS --features FOLDER [--runs FOLDER]

CORPUS has the manifest with word times; FOLDER is made by `taste-min train features`, which keeps more layers with
`--layers 0 1 2 3`. With --runs also the values: records of `python tools/ablate.py run --out FOLDER --conditions
attended_0 ... attended_4 encoder_0 ... encoder_4` on the same features. taste_min/layer_sweep.py says what is measured.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from experiments.ablation_data import stored_layers
from experiments.ablation_table import read_runs
from experiments.layer_sweep import fit_keys, measure_keys, tabulate_keys, tabulate_values

from taste_min.aggregator import Aggregator
from taste_min.assets import fetch
from taste_min.config import mini
from taste_min.ct2 import load_whisper
from taste_min.data import FeatureStore
from taste_min.evaluate_command import write_json
from taste_min.manifest import read_manifest
from taste_min.repro import ROOT, commit


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--features", required=True)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "full" / "layer_sweep.json")
    args = parser.parse_args(arguments)
    started, code = time.monotonic(), commit()
    whisper = load_whisper(fetch("whisper-tiny-en")).model.decoder
    decoder = Aggregator(mini().aggregator).load_whisper_decoder(whisper, identity_values=False).eval()
    train, test = FeatureStore(args.features, "train"), FeatureStore(args.features, "test")
    spans = {u.id: np.array([word[1:] for word in u.words]) for u in read_manifest(args.corpus) if u.words}
    tables = measure_keys(decoder, fit_keys(decoder, train), test, spans)
    found = tabulate_keys(tables, shallow=f"hidden_{mini().encoder.shallow_layer}")
    if args.runs:
        found |= tabulate_values(read_runs(args.runs))
    facts = {
        "layers": stored_layers(train),
        "words": int(tables["last"][:, 3].sum()),
        "sentences": len(tables["last"]),
        "commit": code,
        "device": "cpu",
        "seconds": round(time.monotonic() - started, 1),
    }
    write_json(args.out, found | {"facts": facts})


if __name__ == "__main__":
    main()
