"""Linear probes from word vectors and codes of the shipped weights: results/full/probes.json (claim 6).

    python tools/probe_words.py --features FOLDER [--weights mini]

FOLDER is made by `taste-min train features`. taste_min/word_probes.py says what is measured. About two minutes.
"""

import argparse
import time
from collections import Counter
from pathlib import Path

from experiments.word_probes import probe_all, read_words

from taste_min.data import FeatureStore
from taste_min.evaluate_command import write_json
from taste_min.repro import ROOT, commit
from taste_min.tokenizer import Taste


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "full" / "probes.json")
    parser.add_argument("--weights", default="mini", help="a name or a folder of exported parts (default: mini)")
    args = parser.parse_args(arguments)
    started, code, taste = time.monotonic(), commit(), Taste.from_pretrained(args.weights)
    train, dev, test = (read_words(taste, FeatureStore(args.features, split)) for split in ("train", "dev", "test"))
    facts = {
        "weights": args.weights if args.weights == "mini" else "folder",
        "words": {"train": len(train.word), "dev": len(dev.word), "test": len(test.word)},
        "test_sentences": len(set(test.sentence)),
        "commonest_speaker_share": round(max(Counter(test.speaker).values()) / len(test.speaker), 4),
        "commit": code,
        "device": "cpu",
        "seconds": round(time.monotonic() - started, 1),
    }
    write_json(args.out, probe_all(train, dev, test) | {"facts": facts})


if __name__ == "__main__":
    main()
