"""Do codes and units depend on the number of threads? `python tools/determinism.py` -> results/full/determinism.json.

The same recordings (the first samples that ship, held-out text of six voices) are encoded with their texts by the
shipped model, with one thread twice and with two threads once. Sums are then added in another order, so a vector near
the border between two codebook entries can change its code; the codes of later layers follow. `other_words` is the
mutant: the agreement of every word's codes with those of the next word, of every unit with the one a second later.
"""

import argparse
import json
import os
import sys

import torch

from taste_min import repro
from taste_min.audio import SAMPLE_RATE, read_audio
from taste_min.corpus import load_manifest
from taste_min.files import write_whole
from taste_min.text import split_words
from taste_min.tokenizer import CHECKPOINTS, Taste

SAMPLES = CHECKPOINTS.parent / "samples"


def agreement(a: torch.Tensor, b: torch.Tensor) -> float:
    """Share of equal entries."""
    return round((a == b).float().mean().item(), 5)


def encode(taste: Taste, wavs: list[torch.Tensor], texts: list[str], threads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (W, R) and units (U,) of all recordings, one after the other."""
    torch.set_num_threads(threads)
    codes, units = [], []
    for wav, text in zip(wavs, texts, strict=True):
        tower = taste.look_inside(wav, " ".join(split_words(text)))
        ids = tower.text.word_ids
        first = torch.cat([torch.tensor([True]), ids[1:] != ids[:-1]])
        codes.append(taste.quantizer(tower.aggregator.pooled[:, first]).codes[0])
        units.append(taste.unit_ids(wav))
    return torch.cat(codes), torch.cat(units)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=12, help="the first so many samples (default: 12)")
    rows = load_manifest(SAMPLES)[: parser.parse_args().recordings]
    wavs, texts = [read_audio(row.audio, SAMPLE_RATE, convert=True) for row in rows], [row.text for row in rows]
    taste = Taste.from_pretrained("mini")
    with torch.no_grad():
        one, again, two = (encode(taste, wavs, texts, threads) for threads in (1, 1, 2))
    record = {
        "recordings": len(rows),
        "words": len(one[0]),
        "units": len(one[1]),
        "one_thread_twice": {"codes": agreement(one[0], again[0]), "units": agreement(one[1], again[1])},
        "one_and_two_threads": {"codes": agreement(one[0], two[0]), "units": agreement(one[1], two[1])},
        "other_words": {"codes": agreement(one[0][1:], one[0][:-1]), "units": agreement(one[1][50:], one[1][:-50])},
        "device": f"CPU, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "commit": repro.commit(),
        "versions": repro.versions(),
    }
    write_whole(repro.results_dir() / "full" / "determinism.json", json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
