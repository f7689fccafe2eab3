"""What the original decoder computes, written plainly, to be timed beside ours on the same weights and the same cores.

The mathematics is that of unit_decoder.py and flow.py; only the work differs. Unit decoding: keys and values are joined
anew at every step, and every layer projects a table of all 2S - 1 distances at every step, though a step needs S of
them and has projected S - 1 before; the end of speech is drawn again until it is not the end. Flow: two calls of the
network per step. Vocoder: weights are normalised at every call, convolutions keep the frames of a channel together.

Axes: P prompt positions, U units, S positions so far, D width, H heads.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from .bench_stages import Sizes, maker
from .fast import convert
from .flow import Flow
from .transformer import RelativeAttention, relative_positions, shift_distances
from .unit_decoder import Sampling, UnitDecoder
from .vocoder import Vocoder

REFERENCE = "the original's algorithm (bench_original.py) in this torch, float32, same weights, cores and run"
TOP_K = 25
FEW_STEPS = 5  # of second order, in place of ten of Euler's


@dataclass(frozen=True)
class Comparison:
    """One part of the decoder beside the original's algorithm. ratio: reference / ours. difference: greatest one
    between the results, as a share of the largest value of the reference; None where chance decides."""

    stage: str
    variant: str
    reference_seconds: float
    seconds: float
    ratio: float
    cpu_ratio: float
    difference: float | None


@torch.no_grad()
def write_units(decoder: UnitDecoder, prompt: torch.Tensor, n_units: int) -> torch.Tensor:
    """Draw n_units units after a prompt (1, P, D) from torch's own generator -> (U,)."""
    llm, units, x = decoder.llm, [], prompt
    longest = prompt.shape[1] + n_units
    distances = relative_positions(longest - 1, 1 - longest, llm.d_model)  # kept; its projections are not
    caches: list[tuple | None] = [None] * len(llm.encoders)
    for step in range(n_units):
        n_keys = prompt.shape[1] + step
        table = distances[longest - n_keys : longest + n_keys - 1]  # (2S - 1, D)
        x = llm.embed(x)
        for i, layer in enumerate(llm.encoders):
            mixed, caches[i] = _attend(layer.self_attn, layer.norm_mha(x), table, caches[i])
            x = x + mixed
            x = x + layer.feed_forward(layer.norm_ff(x))
        probabilities, classes = decoder.llm_decoder(llm.after_norm(x)[0, -1]).softmax(-1).topk(TOP_K)
        unit = decoder.end_of_speech
        while unit == decoder.end_of_speech:  # too early for the end at every step
            unit = int(classes[torch.multinomial(probabilities, 1)])
        units.append(unit)
        x = decoder.speech_embedding(torch.tensor([[unit]]))
    return torch.tensor(units)


def _attend(attention: RelativeAttention, x: torch.Tensor, table: torch.Tensor, cache: tuple | None) -> tuple:
    q, k, v = (
        linear(x).unflatten(-1, (attention.n_heads, -1)).transpose(1, 2)  # (1, H, T, D/H)
        for linear in (attention.linear_q, attention.linear_k, attention.linear_v)
    )
    if cache is not None:
        k, v = torch.cat((cache[0], k), dim=2), torch.cat((cache[1], v), dim=2)
    positions = attention.project(table)  # (H, 2S - 1, D/H)
    content = (q + attention.pos_bias_u[:, None]) @ k.transpose(-1, -2)  # (1, H, T, S)
    by_distance = (q + attention.pos_bias_v[:, None]) @ positions.transpose(-1, -2)  # (1, H, T, 2S - 1)
    scores = (content + shift_distances(by_distance, k.shape[2])) / q.shape[-1] ** 0.5
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1 + scores.shape[3] - scores.shape[2])
    mixed = scores.masked_fill(later, -torch.inf).softmax(-1) @ v
    return attention.linear_out(mixed.transpose(1, 2).flatten(2)), (k, v)


def clock(device: torch.device) -> tuple[float, float]:
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # a GPU works on after the call returns
    return time.perf_counter(), time.process_time()


def fastest(runs: dict[str, Callable], repeats: int, device: torch.device) -> dict[str, tuple[float, float]]:
    """Name -> (least wall seconds, least CPU seconds). They take turns, so that all of them meet the same machine."""
    best = dict.fromkeys(runs, (float("inf"), float("inf")))
    for _ in range(repeats):
        for name, run in runs.items():
            before = clock(device)
            run()
            taken = (b - a for a, b in zip(before, clock(device), strict=True))
            best[name] = tuple(map(min, best[name], taken))
    return best


def compare(preset: str, seconds: float, repeats: int, device: torch.device) -> list[Comparison]:
    """The decoder beside the original's algorithm, part by part and together; only where the weights are random."""
    config, make = maker(preset)
    sizes, rows = Sizes(config, seconds, device), []
    for stage, runs in _variants(sizes, make):
        results: dict[str, torch.Tensor] = {}
        timed = {name: partial(_keep, results, name, run) for name, run in runs.items()}
        with torch.no_grad():
            best = fastest(timed, repeats, device)
        reference = results.pop("original")
        for name, result in results.items():
            difference = None
            if stage != "unit decoder" and "steps" not in name:
                difference = float((result - reference).abs().max() / reference.abs().max())
            (wall, cpu), (ours, ours_cpu) = best["original"], best[name]
            rows.append(Comparison(stage, name, wall, ours, wall / ours, cpu / ours_cpu, difference))
    return rows + list(_whole(rows))


def _keep(results: dict, name: str, run: Callable) -> None:
    results[name] = run()


def _variants(sizes: Sizes, make: Callable) -> Iterator[tuple[str, dict[str, Callable]]]:
    n, speaker = sizes.units, sizes.random(1, sizes.config.unit_decoder.d_speaker)
    ids, _, lengths = sizes.text()
    plain, taste = make("unit_decoder"), sizes.random(1, sizes.tokens, sizes.config.rvq.d_model)
    prompt = plain.prompts(ids, lengths, speaker, taste).rows[0][None].detach()
    small, sampling = copy.deepcopy(plain), Sampling(min_units=n, max_units=n)
    convert(small, int8=True)
    runs = {
        name: lambda decoder=decoder: decoder.generate(ids, lengths, speaker, taste, sampling=sampling).units
        for name, decoder in (("float32", plain), ("int8", small))
    }
    yield "unit decoder", {"original": lambda: write_units(plain, prompt, n)} | runs

    plain: Flow = make("flow")
    same, small = copy.deepcopy(plain), copy.deepcopy(plain)
    convert(same), convert(small, int8=True)
    units, length = torch.arange(n)[None] % sizes.config.flow.n_units, torch.tensor([n])
    noise = sizes.random(1, sizes.config.flow.n_mels, int(plain.n_frames(length)))

    def mel(flow: Flow, steps: int | None = None, one_batch: bool = True) -> torch.Tensor:
        second = steps is not None
        return flow.generate(
            units, length, speaker, noise, n_timesteps=steps, one_batch=one_batch, second_order=second
        ).mel

    yield (
        "flow",
        {
            "original": lambda: mel(plain, one_batch=False),
            "float32": lambda: mel(same),
            "int8": lambda: mel(small),
            f"int8, {FEW_STEPS} steps": lambda: mel(small, FEW_STEPS),
        },
    )
    plain: Vocoder = make("vocoder")
    same = copy.deepcopy(plain)
    convert(same)
    phase, waves = sizes.random(1, sizes.config.vocoder.n_harmonics, 1), sizes.config.vocoder.n_harmonics
    hiss = sizes.random(1, waves, noise.shape[2] * sizes.config.vocoder.hop)
    yield (
        "vocoder",
        {
            "original": lambda: plain(noise, phase=phase, noise=hiss).wav,
            "float32": lambda: same(noise, phase=phase, noise=hiss).wav,
        },
    )


def _whole(rows: list[Comparison]) -> Iterator[Comparison]:
    """Unit decoder, flow and vocoder together: in float32, and with everything that is an option."""
    by_name = {(row.stage, row.variant): row for row in rows}
    for name, chosen in {
        "float32": ("float32", "float32", "float32"),
        "int8": ("int8", "int8", "float32"),
        f"int8, {FEW_STEPS} steps": ("int8", f"int8, {FEW_STEPS} steps", "float32"),
    }.items():
        parts = [by_name[part] for part in zip(("unit decoder", "flow", "vocoder"), chosen, strict=True)]
        reference, ours = sum(p.reference_seconds for p in parts), sum(p.seconds for p in parts)
        cpu = reference / sum(p.reference_seconds / p.cpu_ratio for p in parts)  # weighted by the reference's time
        yield Comparison("whole decoder", name, reference, ours, reference / ours, cpu, None)
