"""How long every stage takes, and how far that is from what the machine could do: `taste-min bench`.

A stage is run a few times and the fastest run counts, because anything else on the machine only ever adds time. Its
floor is what its multiplications, or the bytes of its weights, take at the rates that this machine reaches on a large
matrix product and on reading memory. With the paper's sizes the decoder is also timed beside the original's algorithm.

Axes: U units, F mel frames.
"""

import copy
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from .bench_original import REFERENCE, write_units
from .bench_stages import GROUPS, RANDOM, Sizes, Work, maker, stages
from .errors import TasteError
from .fast import convert
from .flow import Flow
from .repro import commit, peak_memory_mb, versions
from .unit_decoder import Sampling
from .vocoder import Vocoder

MAX_SECONDS = 30  # one window, so that every stage runs once
FEW_STEPS = 6  # of second order, in place of ten of Euler's; book/expected.md says how near they come


@dataclass(frozen=True)
class Row:
    """seconds: wall clock. cpu_seconds: of all threads of this process. real_time_factor: seconds per second of speech.
    floor_seconds: see above, `limit` names the ceiling, distance = seconds / floor_seconds. peak_memory_mb: of the
    process (GPU: of its tensors) while the stage ran."""

    stage: str
    seconds: float
    cpu_seconds: float
    real_time_factor: float | None
    tokens_per_second: float
    peak_memory_mb: float
    floor_seconds: float
    limit: str
    distance: float


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


def ceilings(device: torch.device) -> dict[str, float]:
    """Multiply-adds as floating-point operations per second, and bytes read per second, in float32."""
    side, rows = (1024, 4096) if device.type == "cpu" else (8192, 65536)
    square, tall = torch.randn(side, side, device=device), torch.randn(rows, 8192, device=device)
    vector = torch.randn(8192, device=device)
    runs = {"flop": lambda: square @ square, "read": lambda: torch.mv(tall, vector)}
    best = fastest(runs, 8, device)
    return {"flops": 2 * side**3 / best["flop"][0], "bytes_per_second": 4 * tall.numel() / best["read"][0]}


def peak_reset(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():  # Linux; elsewhere the peak is that of the whole run
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    return peak_memory_mb()


@torch.no_grad()
def measure(work: Work, seconds: float, repeats: int, device: torch.device, ceiling: dict[str, float]) -> Row:
    """Time one stage; the run that counts its operations is also the one that warms it up."""
    peak_reset(device)
    with FlopCounterMode(display=False) as counter:
        work.run()
    wall, cpu = fastest({"": work.run}, repeats, device)[""]
    operations, reading = counter.get_total_flops() / ceiling["flops"], work.read / ceiling["bytes_per_second"]
    floor = max(operations, reading, 1e-9)
    return Row(
        work.name,
        wall,
        cpu,
        wall / seconds if work.spoken else None,
        work.tokens / wall,
        round(peak_mb(device), 1),
        floor,
        "memory" if reading > operations else "arithmetic",
        wall / floor,
    )


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


def report(preset: str, seconds: float, repeats: int, only: list[str]) -> dict:
    """Everything `taste-min bench` prints, with what is needed to read it later."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loads = [os.getloadavg()[0]]
    ceiling = ceilings(device)
    rows = [measure(work, seconds, repeats, device, ceiling) for work in stages(preset, seconds, device, only)]
    side_by_side = preset in RANDOM and device.type == "cpu" and "decoding" in only
    comparisons = compare(preset, seconds, repeats, device) if side_by_side else []
    return {
        "preset": preset,
        "speech_seconds": seconds,
        "repeats": repeats,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "load": [*loads, os.getloadavg()[0]],  # processes that wanted a core, before and after
        "ceilings": ceiling,
        "stages": [asdict(row) for row in rows],
        "reference": REFERENCE,
        "against_the_original": [asdict(row) for row in comparisons],
        "commit": commit(),
        "versions": versions(),
    }


def command(args) -> int:
    """`taste-min bench`: args.preset, args.seconds, args.runs, args.stages, args.json."""
    if not 0.5 <= args.seconds <= MAX_SECONDS or args.runs < 1:
        raise TasteError(f"--seconds must lie in 0.5..{MAX_SECONDS} and --runs must be at least 1.")
    result = report(args.preset, args.seconds, args.runs, args.stages or list(GROUPS))
    if args.json:
        print(json.dumps(result, indent=2))
        return 0
    print(f"{'stage':<32}{'s':>9}{'x real time':>13}{'tokens/s':>11}{'MB':>8}{'floor s':>10}{'distance':>10}")
    for row in result["stages"]:
        factor = "" if row["real_time_factor"] is None else f"{row['real_time_factor']:.3f}"
        print(f"{row['stage']:<32}{row['seconds']:>9.3f}{factor:>13}{row['tokens_per_second']:>11.1f}", end="")
        print(f"{row['peak_memory_mb']:>8.0f}{row['floor_seconds']:>10.4f}{row['distance']:>10.1f}")
    for row in result["against_the_original"]:
        print(f"{row['stage']:<14}{row['variant']:<16}{row['ratio']:>6.2f} times as fast as the original's algorithm")
    print(f"fastest of {args.runs} runs on {result['device']}, {result['threads']} threads, load {result['load']}")
    return 0
