"""How long every stage takes, and how far that is from what the machine could do: `taste-min bench`.

A stage is run a few times and the fastest run counts, because anything else on the machine only ever adds time. Its
floor is what its multiplications, or the bytes of its weights, take at the rates that this machine reaches on a large
matrix product and on reading memory. With the paper's sizes the decoder is also timed beside the original's algorithm.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from .bench_original import REFERENCE, compare, fastest
from .bench_stages import GROUPS, RANDOM, Work, stages
from .errors import TasteError
from .repro import commit, peak_memory_mb, versions

MAX_SECONDS = 30  # one window, so that every stage runs once


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
        (line,) = (line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
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
