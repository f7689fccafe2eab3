"""How loud must speech start, so that the joint language model hears it? results/full/loudness.json (section 3.2).

    python tools/loudness.py [--codes results/taslm_codes] [--steps 48]

The stage taslm_token again and again from the same seed, each time with another way of beginning. Measured on the dev
split: losses of codes and text in nats, how loud speech is beside text, and the gain of hearing: how much worse codes
are expected after those of another recording. A model that does not listen gains nothing. What was measured stays.

Axes: G sentences, n words.
"""

import argparse
from dataclasses import asdict, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from bars import ROOT
from experiments.taslm_eval import CODES, TEXT, utterance_losses

from taste_min.bootstrap import bca_interval, merge_groups, paired_difference, ratio
from taste_min.data import FeatureStore
from taste_min.evaluate_command import Partial, write_json
from taste_min.objectives_taslm import TaslmObjective, loudness_of
from taste_min.repro import commit, versions
from taste_min.stages import STAGES, TrainConfig
from taste_min.taslm_files import build_taslm
from taste_min.train import Run

OUT = ROOT / "results" / "full" / "loudness.json"
CODES_FOLDER = ROOT / "results" / "taslm_codes"
SEED = 0
WAYS = {  # name: how loud speech starts (the original: 0.06), factor of the fusion's learning rate, hiding the text
    "0.06": (0.06, 0.3, False),
    "0.06, the fusion learns faster": (0.06, 10.0, False),
    "0.4": (0.4, 0.3, False),
    "0.4, text hidden in half of the batches": (0.4, 0.3, True),
    "0.6": (0.6, 0.3, False),
    "1.2": (1.2, 0.3, False),
    "2.0": (2.0, 0.3, False),
}


class Hiding(TaslmObjective):
    """The stage, with text hidden in half of the batches of the training, drawn at random."""

    def load(self, store, indices, generator=None):
        self.text = self.kl = not self.training or torch.rand((), generator=generator).item() < 0.5
        return super().load(store, indices, generator)


@torch.no_grad()
def measure(objective: TaslmObjective, dev: FeatureStore) -> dict:
    """What the objective has learnt so far, on the dev split."""
    texts = [row["text"] for row in dev.rows]
    own, other = (
        merge_groups(utterance_losses(objective, dev, hears_others=others), texts) for others in (False, True)
    )  # (G, 4)
    codes = torch.cat([dev.tensor(i, "codes").long() for i in range(len(dev))])  # (n, R)
    return {
        "loudness": loudness_of(objective.model, codes),
        "code_loss": asdict(bca_interval(own[:, CODES], ratio)),
        "text_loss": asdict(bca_interval(own[:, TEXT], ratio)),
        "gain": asdict(paired_difference(other[:, CODES], own[:, CODES], ratio)),
    }


def train(way: str, train_data: FeatureStore, dev: FeatureStore, steps: int, preset: str = "mini") -> dict:
    """The stage with one of WAYS; what was measured before the first and after the last step."""
    loud, factor, hides = WAYS[way]
    stage = STAGES["taslm_token"]
    settings: TrainConfig = stage.settings[preset]
    factors = (*((part, f) for part, f in settings.factors if "fuse" not in part), ("model.fuse.", factor))
    config = replace(settings, steps=steps, factors=factors, micro_batches=1)
    torch.manual_seed(SEED)
    kind = Hiding if hides else TaslmObjective
    objective = kind("taslm_token", build_taslm(preset, "token"), loudness=loud)
    run = Run(stage, preset, config, SEED, Path(), train_data, dev, Accelerator(cpu=True), objective)
    run.prepare()
    before = measure(objective, dev)
    objective.train()
    while run.step < steps:
        run.train_step()
    return {"way": way, "before": before, "after": measure(objective, dev)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codes", type=Path, default=CODES_FOLDER)
    parser.add_argument("--steps", type=int, default=48)
    args = parser.parse_args(argv)
    train_data, dev = FeatureStore(args.codes, "train"), FeatureStore(args.codes, "dev")
    run = {"steps": args.steps, "seed": SEED, "utterances": len(dev), "codebooks": dev.fingerprint, "commit": commit()}
    partial = Partial(Path(f"{OUT}.partial"), run, batch=1)
    for way in WAYS:
        if way not in {row["way"] for row in partial.rows}:
            partial.add([train(way, train_data, dev, args.steps)])
            print(partial.rows[-1], flush=True)
    write_json(OUT, {**run, "versions": versions(), "device": "cpu", "ways": partial.rows})


if __name__ == "__main__":
    main()
