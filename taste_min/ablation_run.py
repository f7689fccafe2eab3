"""One run of the ablation: a condition and a seed, from first weights to the record of its test (see ablation.py).

Everything random in step n follows from (seed, n), not from the condition. States that conditions share (after the
text, and where the quantizer is switched on) are kept in the work folder; without them they are computed again.

Axes: B batch, N text tokens, U units, R codebooks.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from .ablation import CONDITIONS, Condition, Conditioned, Corpus, Inputs, Protocol, real, shuffled, stored_layers
from .data import BatchOrder
from .objectives import start_quantizer
from .optimizer import seed_of
from .phones import PAUSES
from .pointer import lasted
from .unit_decoder import IGNORE, UnitPrediction

# columns of the table per utterance: sums over its units and the end, then over the first units of its words
COLUMNS = ("n", "nats", "top1", "top5", "first_n", "first_nats", "first_top1", "first_top5", "step_n", "step_nats")


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
    if condition.source != "none":
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

    def prepare_batches(self, condition: Condition) -> Iterator[Inputs]:
        return (self.setting.train.load(self.order[n], condition) for n in range(self.setting.protocol.prepare_batches))

    def advance(self, until: int) -> None:
        model, setting = self.model.train(), self.setting
        while self.step < until:
            inputs = setting.train.load(self.order[self.step], model.condition)
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
    if condition.source == "words":
        rows = collect(model, phase.prepare_batches(condition))
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
    if condition.source == "words":
        plain = Condition(values=condition.values)

        def make():
            without = opened(plain, setting, seed)
            without.advance(protocol.quantizer_step)
            return without.state()

        phase.restore(_kept(setting.work / f"{plain.values}-{seed}.pt", make))
    if condition.n_codebooks:
        torch.manual_seed(seed_of(seed, 4))
        rows = collect(phase.model, phase.prepare_batches(condition))
        start_quantizer(phase.model.quantizer, rows, protocol.prepare_batches)
        phase.model.quantize = True
    phase.advance(protocol.steps)
    return phase


@contextmanager
def past_hidden(model: Conditioned):
    """Within the context the decoder sees none of the past units, as when all of them are dropped in training."""
    weight = model.unit_decoder.speech_embedding.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.zero_()
    yield
    with torch.no_grad():
        weight.copy_(kept)


def begins_word(model: Conditioned, inputs: Inputs, n: int) -> torch.Tensor:
    """Which units are among the first n of a word, pauses not counted: (B, U)."""
    batch = inputs.batch
    sounds = model.unit_decoder.reader.sounds(batch.token_ids, batch.token_lengths)
    symbols, words = (x.gather(1, batch.pointer) for x in (sounds.symbols, sounds.tokens))  # (B, U)
    spoken = symbols > len(PAUSES)
    return spoken & (lasted(torch.where(spoken, words, -1)) < n)


def scores(prediction: UnitPrediction, first: torch.Tensor, lengths: torch.Tensor) -> list[list[float]]:
    """One row of COLUMNS per utterance. first: (B, U)."""
    rows = []
    for i, n in enumerate(lengths.tolist()):
        keep = prediction.labels[i] != IGNORE
        logits, labels = prediction.logits[i][keep].float(), prediction.labels[i][keep]  # (n + 1, V)
        nats = nn.functional.cross_entropy(logits, labels, reduction="none")
        best = logits.topk(5, dim=-1).indices == labels[:, None]  # (n + 1, 5)
        values = torch.stack((torch.ones(n + 1), nats, best[:, 0].float(), best.any(dim=-1).float()))  # (4, n + 1)
        keep = prediction.step_labels[i] != IGNORE
        steps, moved = prediction.step_logits[i][keep].float(), prediction.step_labels[i][keep]
        step_nats = nn.functional.cross_entropy(steps, moved, reduction="sum")
        sums = [*values.sum(dim=1).tolist(), *values[:, :n][:, first[i, :n]].sum(dim=1).tolist()]
        rows.append([round(x, 3) for x in (*sums, len(moved), float(step_nats))])
    return rows


@torch.no_grad()
def evaluate(model: Conditioned, corpus: Corpus, protocol: Protocol, full: bool = False) -> dict[str, list]:
    """Table per utterance, in the order of the corpus: "with_past"; with `full` also "without_past" and "shuffled"."""
    model.eval()
    order = sorted(range(len(corpus.rows)), key=lambda n: corpus.rows[n]["n_units"])
    size = max(1, protocol.budget // 150)
    tables: dict[str, dict[int, list]] = {}
    generator = torch.Generator().manual_seed(0)
    for start in range(0, len(order), size):
        numbers = order[start : start + size]
        inputs = corpus.load(numbers, model.condition)
        vectors, _ = model.vectors(inputs)
        first = begins_word(model, inputs, protocol.first_units)

        def add(name, vectors, inputs=inputs, first=first, numbers=numbers):
            rows = scores(model(inputs, vectors), first, inputs.batch.unit_lengths)
            tables.setdefault(name, {}).update(zip(numbers, rows, strict=True))

        add("with_past", vectors)
        if full:
            with past_hidden(model):
                add("without_past", vectors)
            if vectors is not None:
                add("shuffled", shuffled(vectors, real(inputs), generator))
    return {name: [rows[n] for n in range(len(order))] for name, rows in tables.items()}


@torch.no_grad()
def usage(model: Conditioned, batches: Iterator[Inputs]) -> dict:
    """Of every codebook over the words of some batches: perplexity of its codes, and codes that no word has."""
    model.eval()
    codes = []
    for inputs in batches:
        ids, mask = inputs.batch.word_ids, real(inputs)
        begins = torch.cat((torch.ones_like(ids[:, :1], dtype=torch.bool), ids.diff(dim=1) != 0), dim=1) & mask
        codes.append(model.vectors(inputs)[1].codes[begins])
    codes = torch.cat(codes)  # (n, R)
    shares = [torch.bincount(column, minlength=model.condition.codebook_size) / len(codes) for column in codes.T]
    return {
        "words": len(codes),
        "perplexity": [round(float(torch.exp(torch.special.entr(share).sum())), 2) for share in shares],
        "dead": [int((share == 0).sum()) for share in shares],
    }


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
        batches = (setting.train.load(phase.order[n], condition) for n in range(2 * setting.protocol.prepare_batches))
        record["codebooks"] = usage(phase.model, batches)
    return record
