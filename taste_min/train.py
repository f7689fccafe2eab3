"""The training loop: one for all stages, on one CPU, one GPU, or several processes (paper section 4.1).

Everything random in step n follows from (seed, n): which utterances, which dropout, which noise. Nothing is carried
from step to step but weights and optimiser. So a run that was killed continues as if nothing had happened, and p
processes with one micro-batch each do what one process does with p micro-batches.
"""

import json
import os
import random
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from . import sharding
from .config import PRESETS
from .data import BatchOrder, FeatureStore
from .errors import TasteError
from .files import read_records, to_lines, write_whole
from .optimizer import Swapped, average_gradients, learning_rate, make_optimizer, seed_of
from .released_files import unpickle
from .repro import bfloat16_is_fast
from .stages import Stage, TrainConfig

CHECKPOINT, SHARDS, METRICS = "checkpoint.pt", "checkpoint", "metrics.jsonl"


@dataclass
class Run:
    """One training run in a folder: objective, optimisers, position. Everything but the position follows from it."""

    stage: Stage
    preset: str
    config: TrainConfig
    seed: int
    folder: Path
    train_data: FeatureStore
    dev_data: FeatureStore
    accelerator: Accelerator
    objective: nn.Module
    sharded: bool = False  # see sharding.py
    step: int = 0
    seconds: float = 0.0
    ema: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self):
        config, accelerator = self.config, self.accelerator
        if config.micro_batches % accelerator.num_processes and accelerator.num_processes > 1:
            raise TasteError(
                f"{config.micro_batches} micro-batches cannot be shared by {accelerator.num_processes} processes; "
                "choose a divisor of them, or pass --micro-batches."
            )
        self.objective.to(accelerator.device).train()
        if self.sharded:
            sharding.shard(self.objective, accelerator.device, accelerator.num_processes)
        self.optimizers = {p: make_optimizer(self.objective.module(p), config) for p in self.objective.parts}
        lengths = self.objective.lengths(self.train_data)
        self.order = BatchOrder(lengths, config.budget, seed_of(self.seed, 1))
        if config.ema_decay:
            self.ema = {k: v.detach().clone() for k, v in self.objective.named_parameters() if v.requires_grad}

    @property
    def identity(self) -> dict:
        """What a checkpoint must have in common with the run that continues it."""
        return {"stage": self.stage.name, "preset": self.preset, "seed": self.seed, **asdict(self.config)}

    def autocast(self):
        if not (self.config.bfloat16 and bfloat16_is_fast(self.accelerator.device)):
            return nullcontext()
        return torch.autocast(self.accelerator.device.type, torch.bfloat16)

    def load_batch(self, number: int, store: FeatureStore | None = None, order: BatchOrder | None = None):
        """Micro-batch `number` on the device, and its generator. Same number, same batch."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, 2, number))
        indices = (order or self.order)[number]
        return self.objective.load(store or self.train_data, indices, generator).to(self.accelerator.device), generator

    def prepare(self) -> None:
        """What the stage does once, before its first step."""
        torch.manual_seed(seed_of(self.seed, 3))
        self.objective.prepare(self.load_batch(n)[0] for n in range(self.config.prepare_batches))

    def finish(self) -> None:
        """What the stage does once, after its last step."""
        self.objective.finish(self.load_batch(n)[0] for n in range(self.config.prepare_batches))

    def train_step(self) -> dict[str, float]:
        """One update of every part; returns the means over the micro-batches of all processes."""
        config, n_processes = self.config, self.accelerator.num_processes
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        n_local, logs = config.micro_batches // n_processes, []
        for i in range(n_local):
            number = self.step * config.micro_batches + self.accelerator.process_index * n_local + i
            batch, _ = self.load_batch(number)
            torch.manual_seed(seed_of(self.seed, 4, number))  # dropout and noise belong to the micro-batch
            random.seed(seed_of(self.seed, 5, self.step))  # the number of quantizer layers to the step
            numbers = {}
            for part in self.objective.parts:
                with self.autocast():
                    loss, more = self.objective.loss(batch, part, self.step)
                if loss is not None:
                    (loss / n_local).backward()
                    numbers |= {"loss" if part == "model" else f"{part}_loss": loss.detach(), **more}
            logs.append(torch.stack([v.float() for v in numbers.values()]))
        rate = learning_rate(config, self.step)
        for optimizer in self.optimizers.values():
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            if not self.sharded:
                average_gradients(parameters, self.accelerator)
            nn.utils.clip_grad_norm_(parameters, config.clip)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            optimizer.step()
        self.step += 1
        if self.ema:
            decay = min(config.ema_decay, self.step / (self.step + 10))
            for name, parameter in self.objective.named_parameters():
                if name in self.ema:
                    self.ema[name].lerp_(parameter.detach(), 1 - decay)
        means = self.accelerator.reduce(torch.stack(logs).mean(dim=0), "mean").tolist()
        return dict(zip(numbers, means, strict=True)) | {"lr": rate}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Means over the first `eval_batches` batches of the dev split, with the averaged weights if there are any."""
        order = BatchOrder(self.objective.lengths(self.dev_data), self.config.budget, seed=0)
        numbers = range(min(self.config.eval_batches, order.per_epoch))
        totals: dict[str, list[float]] = {}
        self.objective.eval()
        with self.averaged_weights():
            for number in numbers:
                batch, generator = self.load_batch(number, self.dev_data, order)
                with self.autocast():
                    sums = self.objective.evaluate(batch, generator)
                for name, (total, n) in sums.items():
                    entry = totals.setdefault(name, [0.0, 0])
                    entry[0], entry[1] = entry[0] + float(total), entry[1] + n
        self.objective.train()
        return {name: total / n for name, (total, n) in totals.items()}

    def averaged_weights(self):
        return Swapped(self.objective, self.ema) if self.ema else nullcontext()

    def save(self) -> None:
        """Write the checkpoint whole or not at all. Raises TasteError when there is no room for it."""
        position = {"identity": self.identity, "step": self.step, "seconds": self.seconds}
        if self.sharded:
            return sharding.save(self.folder / SHARDS, self, position)
        state = {
            **position,
            "objective": self.objective.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "ema": self.ema,
        }
        partial = self.folder / f"{CHECKPOINT}.part"
        try:
            torch.save(state, partial)
        except RuntimeError as error:  # of its zip writer
            partial.unlink(missing_ok=True)
            raise TasteError(
                f"{partial} cannot be written; make room on the disk and continue with --resume."
            ) from error
        os.replace(partial, self.folder / CHECKPOINT)

    def restore(self) -> None:
        """Continue from the checkpoint in the folder. Raises TasteError when it belongs to another run."""
        if self.sharded != (self.folder / SHARDS).is_dir():
            raise TasteError(f"{self.folder} holds a run {'without' if self.sharded else 'with'} --shard; do the same.")
        state = sharding.read_position(self.folder / SHARDS) if self.sharded else read_checkpoint(self.folder)
        ours, theirs = (json.loads(json.dumps(identity)) for identity in (self.identity, state["identity"]))
        other = [k for k, v in ours.items() if theirs.get(k) != v]
        if other:
            raise TasteError(f"{self.folder} holds a run with another {', '.join(other)}; choose another folder.")
        self.step, self.seconds = state["step"], state["seconds"]
        if self.sharded:
            return sharding.restore(self.folder / SHARDS, self)
        self.objective.load_state_dict(state["objective"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.ema = {k: v.to(self.accelerator.device) for k, v in state["ema"].items()}


def read_checkpoint(folder: Path) -> dict:
    """The state that `Run.save` wrote. Raises TasteError when there is none or it is damaged."""
    if (folder / SHARDS).is_dir():
        return sharding.read_whole(folder / SHARDS)
    if not (folder / CHECKPOINT).is_file():
        raise TasteError(f"there is no checkpoint in {folder}; train that stage first.")
    state = unpickle(folder / CHECKPOINT)
    if not isinstance(state, dict) or not {"identity", "step", "objective", "optimizers", "ema"} <= state.keys():
        raise TasteError(f"{folder / CHECKPOINT} is not the checkpoint of a run; choose another folder.")
    return state


def holds_run(folder: Path) -> bool:
    """Whether a run has left a checkpoint there."""
    return (folder / CHECKPOINT).is_file() or sharding.settle(folder / SHARDS)


def build_objective(stage: Stage, preset: str, seed: int, start: Sequence[Path] = ()) -> nn.Module:
    """The stage's objective with its first weights: pretrained, then those of the folders `start`, runs or exports."""
    from .export import start_from_parts, start_from_whisper

    torch.manual_seed(seed_of(seed, 0))
    objective = stage.objective(PRESETS[preset]())
    if preset == "mini":
        start_from_whisper(objective)
    for folder in start:
        if not holds_run(folder) and any(folder.glob("*.safetensors")):
            kept = start_from_parts(objective, folder)
            print(f"started from the parts in {folder.name}; not taken: {', '.join(kept) or 'nothing'}")
            continue
        weights = read_checkpoint(folder)
        known = objective.state_dict().keys()
        state = {k: v for k, v in (weights["objective"] | weights["ema"]).items() if k in known}
        objective.load_state_dict(state, strict=False)
    return objective


def run_stage(run: Run, resume: bool, progress: bool = True) -> dict[str, float]:
    """Train to the last step; returns the last dev metrics. Metrics go to metrics.jsonl, one line per log."""
    main = run.accelerator.is_main_process
    metrics = run.folder / METRICS
    if resume and holds_run(run.folder):
        run.restore()
        if main:
            _cut(metrics, run.step)
    else:
        run.prepare()
    started, start_step, dev = time.monotonic() - run.seconds, run.step, {}
    bar = tqdm(total=run.config.steps, initial=run.step, desc=run.stage.name, disable=not (progress and main))
    with metrics.open("a", encoding="utf-8", buffering=1) as file:
        while run.step < run.config.steps:
            values = run.train_step()
            run.seconds = time.monotonic() - started
            last = run.step == run.config.steps
            line = {"step": run.step, **values, "seconds": round(run.seconds, 3)}
            if run.step % run.config.log_every == 0 or last:
                if main:
                    file.write(json.dumps(line) + "\n")
                bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)
            if (main or run.sharded) and (run.step % run.config.eval_every == 0 or last):
                dev = run.evaluate()
                if main:
                    file.write(json.dumps({"step": run.step, "dev": dev}) + "\n")
            if (main or run.sharded) and (run.step % run.config.save_every == 0 or last):
                run.save()
            bar.update()
    bar.close()
    run.finish()
    run.accelerator.wait_for_everyone()
    return dev if run.step > start_step else run.evaluate()


def _cut(metrics: Path, step: int) -> None:
    """Drop the lines that a killed run wrote after its last checkpoint, and all from a damaged one on."""
    records = read_records(metrics) if metrics.is_file() else []
    write_whole(metrics, to_lines([record for record in records if record.get("step", step) <= step]))
