"""One run of the ablation: a condition and a seed, from first weights to the record of its test (see ablation.py).

Everything random in step n follows from (seed, n), not from the condition. States that conditions share (after the
text, and where the quantizer is switched on) are kept in the work folder; without them they are computed again.

Axes: B batch, N text tokens, U units, R codebooks.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from taste_min.data import BatchOrder
from taste_min.objectives import start_quantizer
from taste_min.optimizer import seed_of

from .ablation import CONDITIONS, Condition, Conditioned, Protocol
from .ablation_data import Corpus, Inputs, real, stored_layers
from .ablation_scores import evaluate, usage


@dataclass(frozen=True)
class Setting:
    """What all runs have in common. work: folder of the states that runs share.

    statistics: mean and standard deviation (D,) of every encoder layer over the training frames.
    """

    protocol: Protocol
    train: Corpus
    dev: Corpus
    test: Corpus
    tokenizer: Tokenizer
    statistics: dict[str, tuple[torch.Tensor, torch.Tensor]]
    work: Path


def layer_statistics(corpus: Corpus, n: int = 200) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Mean and standard deviation (D,) of the frames of the first n utterances, by layer."""
    found = {}
    for layer in stored_layers(corpus.store):
        frames = torch.cat([corpus.store.tensor(i, layer) for i in corpus.indices[:n]])
        found[layer] = frames.mean(dim=0), frames.std(dim=0).clamp(min=1e-5)
    return found


def build(condition: Condition, setting: Setting, seed: int) -> Conditioned:
    """First weights. Those of the unit decoder are the same in all conditions of a seed."""
    torch.manual_seed(seed_of(seed, 0))
    model = Conditioned(condition, setting.protocol, setting.tokenizer)
    if condition.source in ("frames", "attended"):
        for buffer, value in zip((model.mean, model.scale), setting.statistics[condition.values], strict=True):
            buffer.copy_(value)
    return model


def rate_at(protocol: Protocol, step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine to lr * final_lr."""
    if step < protocol.warmup:
        return protocol.lr * (step + 1) / protocol.warmup
    low = protocol.lr * protocol.final_lr
    return low + (protocol.lr - low) * 0.5 * (
        1 + math.cos(math.pi * (step - protocol.warmup) / (steps - protocol.warmup))
    )


class Phase:
    """A stretch of training with one learning-rate curve and one sequence of batches; the condition plays no part."""

    def __init__(self, model: Conditioned, setting: Setting, seed: int, number: int, steps: int):
        """number: of the phase, so that each has batches of its own."""
        self.model, self.setting, self.key, self.steps, self.step = model, setting, (seed, number), steps, 0
        protocol = setting.protocol
        self.order = BatchOrder(setting.train.lengths(), protocol.budget, seed_of(*self.key, 1))
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=protocol.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True
        )
        self.curve = []  # [step, loss on dev]

    def batches(self, n: int) -> Iterator[Inputs]:
        """The first n batches of this phase."""
        return map(self.batch, range(n))

    def batch(self, number: int) -> Inputs:
        condition = self.model.condition
        return self.setting.train.load(self.order[number], condition.source, condition.values)

    def advance(self, until: int) -> None:
        model, setting = self.model.train(), self.setting
        while self.step < until:
            inputs = self.batch(self.step)
            torch.manual_seed(seed_of(*self.key, 2, self.step))
            vectors, rvq = model.vectors(inputs)
            # the noise of the decoder must not depend on what was drawn before it
            torch.manual_seed(seed_of(*self.key, 3, self.step))
            loss = model(inputs, vectors).loss + (rvq.commitment_loss if rvq else 0.0)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), setting.protocol.clip)
            for group in self.optimizer.param_groups:
                group["lr"] = rate_at(setting.protocol, self.step, self.steps)
            self.optimizer.step()
            self.step += 1
            if self.step % setting.protocol.eval_every == 0 or self.step == self.steps:
                table = evaluate(model, setting.dev, setting.protocol)["with_past"]
                sums = [sum(column) for column in zip(*table, strict=True)]
                self.curve.append([self.step, round(sums[1] / sums[0], 5)])
                model.train()

    def state(self) -> dict:
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        moments = {names[p]: state for p, state in self.optimizer.state.items()}
        return {"model": self.model.state_dict(), "moments": moments, "step": self.step, "curve": self.curve}

    def restore(self, state: dict) -> None:
        """Weights and moments by name; what the state does not have stays as it is."""
        self.model.load_state_dict(state["model"], strict=False)
        for name, parameter in self.model.named_parameters():
            if name in state["moments"]:
                self.optimizer.state[parameter] = {k: v.clone() for k, v in state["moments"][name].items()}
        self.step, self.curve = state["step"], [list(point) for point in state["curve"]]


def _kept(path: Path, make) -> dict:
    """The state in the file; made and written when there is none."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        torch.save(make(), partial)
        partial.replace(path)
    return torch.load(path, weights_only=True)


def text_state(setting: Setting, seed: int) -> dict:
    """The decoder that all conditions of a seed start from."""

    def make():
        steps = setting.protocol.text_steps
        phase = Phase(build(CONDITIONS["text_only"], setting, seed), setting, seed, 0, steps)
        phase.advance(steps)
        return phase.state()

    return _kept(setting.work / f"text-{seed}.pt", make)


def opened(condition: Condition, setting: Setting, seed: int) -> Phase:
    """The second phase before its first step: the decoder after the text, the audio centred over training words."""
    model = build(condition, setting, seed)
    weights = {k: v for k, v in text_state(setting, seed)["model"].items() if k.startswith("unit_decoder.")}
    model.load_state_dict(weights, strict=False)
    phase = Phase(model, setting, seed, 1, setting.protocol.steps)
    if condition.source in ("words", "attended"):
        rows = collect(model, phase.batches(setting.protocol.prepare_batches))
        model.centre.copy_(rows.mean(dim=0))
        model.spread.copy_(rows.std(dim=0).clamp(min=1e-5))
    return phase


@torch.no_grad()
def collect(model: Conditioned, batches: Iterator[Inputs]) -> torch.Tensor:
    """Vectors of all tokens before the quantizer, without dropout: (n, D)."""
    model.eval()
    return torch.cat([model.heard(x)[real(x)] for x in batches])


def train(condition: Condition, setting: Setting, seed: int) -> Phase:
    """The second phase from beginning to end. Until the quantizer is switched on, a quantized run is that without."""
    protocol = setting.protocol
    phase = opened(condition, setting, seed)
    if condition.source in ("words", "attended"):
        plain = Condition(condition.source, condition.values)

        def make():
            without = opened(plain, setting, seed)
            without.advance(protocol.quantizer_step)
            return without.state()

        phase.restore(_kept(setting.work / f"{plain.source}-{plain.values}-{seed}.pt", make))
    if condition.n_codebooks:
        torch.manual_seed(seed_of(seed, 4))
        rows = collect(phase.model, phase.batches(protocol.prepare_batches))
        start_quantizer(phase.model.quantizer, rows, protocol.prepare_batches)
        phase.model.quantize = True
    phase.advance(protocol.steps)
    return phase


def run(condition: Condition, setting: Setting, seed: int) -> dict:
    """Train and test; returns the record without the facts about machine and commit."""
    started = time.monotonic()
    text_state(setting, seed)
    begun = time.monotonic()
    phase = train(condition, setting, seed)
    record = {
        "seed": seed,
        "steps": [setting.protocol.text_steps, phase.step],
        "seconds": [round(begun - started, 1), round(time.monotonic() - begun, 1)],
        "dev_loss": {"text": text_state(setting, seed)["curve"], "then": phase.curve},
        "test": evaluate(phase.model, setting.test, setting.protocol, full=True),
    }
    if condition.n_codebooks:
        record["codebooks"] = usage(phase.model, phase.batches(2 * setting.protocol.prepare_batches))
    return record
