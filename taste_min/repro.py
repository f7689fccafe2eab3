"""Reproducible runs of the notebooks: one dial (`profile`), a device, seeds, and a JSON record of what was measured.

`start()` resolves the profile and the device and prints why; `Run.metric()` collects numbers; `Run.record()` writes
them to `results/<profile>/<notebook>.json` with everything needed to read them later (commit, versions, device, time,
memory). Importing this module does not import torch.
"""

import json
import math
import os
import platform
import random
import re
import resource
import subprocess
import sys
import time
from dataclasses import dataclass, field
from html import escape
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from . import __version__
from .errors import TasteError
from .files import write_whole

if TYPE_CHECKING:
    import torch

PROFILES = ("smoke", "gpu", "full")  # each one inherits the settings of the one before it
KINDS = ("measured", "control", "exact", "derived")
ROOT = Path(__file__).resolve().parents[1]


class Metric(NamedTuple):
    """One recorded number. `paper` is the paper's value for the same quantity and `source` says where it is printed."""

    value: int | float
    unit: str
    kind: str
    paper: float | None
    source: str | None


class Settings(dict):
    """The values of one notebook and profile from `profiles.json`; an unknown key raises TasteError."""

    def __missing__(self, key):
        raise TasteError(
            f"profiles.json has no {key!r} for this notebook and profile; it has: {', '.join(self) or 'nothing'}."
        )


def resolve_profile(profile: str, has_gpu: bool) -> tuple[str, str]:
    """`profile` as written in a notebook -> (profile, reason). The environment's TASTE_MIN_PROFILE replaces "auto".

    Raises TasteError for an unknown name.
    """
    reason = "asked for"
    if profile == "auto":
        profile, reason = os.environ.get("TASTE_MIN_PROFILE", "auto"), "TASTE_MIN_PROFILE"
    if profile == "auto":
        profile, reason = ("gpu", "a CUDA device is here") if has_gpu else ("smoke", "no CUDA device is here")
    if profile not in PROFILES:
        raise TasteError(f"profile must be auto, {', '.join(PROFILES)}; got {profile!r}.")
    return profile, reason


def resolve_dtype(capability: tuple[int, int] | None) -> tuple[str, str]:
    """CUDA compute capability, None on the CPU -> (name of the number format, reason)."""
    if capability is None:
        return "float32", "exact and fast enough here"
    if capability >= (8, 0):
        return "bfloat16", "native on this GPU"
    return "float32", "this GPU only emulates bfloat16"  # a T4 is 7.5


def bfloat16_is_fast(device: "torch.device | str") -> bool:
    """Whether the device multiplies matrices in bfloat16 faster than in float32; a processor without such units is
    several times slower."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def settings(name: str, profile: str, path: Path | None = None) -> Settings:
    """Values of notebook `name` in `profile`: the defaults, then the notebook's own; smoke, then gpu, then full on top.

    Raises TasteError when `profiles.json` has a profile name that does not exist.
    """
    table = json.loads((path or Path(__file__).with_name("profiles.json")).read_text(encoding="utf-8"))
    merged = Settings()
    for block in (table["defaults"], table.get(name, {})):
        unknown = set(block) - set(PROFILES)
        if unknown:
            raise TasteError(f"profiles.json has unknown profiles for {name}: {', '.join(sorted(unknown))}.")
    for inherited in PROFILES[: PROFILES.index(profile) + 1]:
        merged.update(table["defaults"].get(inherited, {}))
        merged.update(table.get(name, {}).get(inherited, {}))
    return merged


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch (all devices) and choose the deterministic cuDNN kernels, which cost little."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def commit() -> str:
    """Commit of the checkout this package runs from, `+dirty` when files differ from it; else the package version."""
    if not (ROOT / ".git").exists():
        return f"taste_min {__version__}"

    def git(*words):
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)

    head = git("rev-parse", "--short=12", "HEAD")
    if head.returncode:
        return f"taste_min {__version__}"
    return head.stdout.strip() + ("+dirty" if git("status", "--porcelain").stdout.strip() else "")


def results_dir() -> Path:
    """TASTE_MIN_RESULTS, else `results/` of the checkout, else `results/` in the current folder."""
    if "TASTE_MIN_RESULTS" in os.environ:
        return Path(os.environ["TASTE_MIN_RESULTS"])
    return (ROOT if (ROOT / "pyproject.toml").exists() else Path.cwd()) / "results"


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6  # bytes on macOS, KiB on Linux


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "taste_min": __version__}
    for package in ("torch", "transformers", "numpy"):
        found[package] = metadata.version(package)
    return found


class Table(NamedTuple):
    """What `Run.record()` shows: one line per metric; plain text in a terminal, HTML in a notebook."""

    caption: str
    rows: list[tuple[str, ...]]

    HEADER = ("metric", "value", "unit", "kind", "paper")

    def __repr__(self) -> str:
        lines = [self.HEADER, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.HEADER))]
        text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([*text, self.caption])

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{name}</th>' for name in self.HEADER)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows)
        caption = f"<caption>{escape(self.caption)}</caption>"
        return f'<table class="table">{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


@dataclass
class Run:
    """One run of one notebook: where it runs, its settings, and the metrics collected so far."""

    name: str
    profile: str
    seed: int
    device: "torch.device"
    dtype: "torch.dtype"
    settings: Settings
    metrics: dict[str, Metric] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    started_cpu: float = field(default_factory=time.process_time)

    def metric(self, name, value, unit, kind="measured", paper=None, source=None) -> int | float:
        """Collect one number and return it as a Python int or float.

        `kind`: "measured"; "control" (a broken, untrained or shuffled variant); "exact" (the same on every machine);
        "derived" (arithmetic on other numbers). `paper`: the paper's value; `source`: the table or section it is in.
        Raises TasteError for a value that is not a finite number, a bad or repeated name, a paper value without source.
        """
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise TasteError(f"metric names are lower_case words like alignment_error_ms, got {name!r}.")
        if name in self.metrics:
            raise TasteError(
                f"metric {name!r} was recorded before; use another name, or run the notebook from the top."
            )
        if kind not in KINDS:
            raise TasteError(f"kind of metric {name!r} must be one of {', '.join(KINDS)}; got {kind!r}.")
        if paper is not None and not source:
            raise TasteError(
                f"metric {name!r} has a paper value, so it needs source=, the table or section it is printed in."
            )
        value = value.item() if hasattr(value, "item") else value  # numpy and torch scalars
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise TasteError(f"metric {name!r} must be a finite int or float, got {value!r}.")
        self.metrics[name] = Metric(value, unit, kind, paper, source)
        return value

    def record(self) -> Table:
        """Write `results/<profile>/<name>.json` in one step (never half a file) and return the table of metrics."""
        import torch

        on_gpu = self.device.type == "cuda"
        result = {
            "notebook": self.name,
            "profile": self.profile,
            "seed": self.seed,
            "commit": commit(),
            "device": torch.cuda.get_device_name(self.device) if on_gpu else f"CPU, {os.cpu_count()} cores",
            "cpu_count": os.cpu_count(),
            "dtype": str(self.dtype).removeprefix("torch."),
            "versions": versions(),
            "wall_seconds": round(time.perf_counter() - self.started, 3),
            "cpu_seconds": round(time.process_time() - self.started_cpu, 3),  # of all threads
            "peak_memory_mb": round(peak_memory_mb(), 1),
            "peak_gpu_memory_mb": round(torch.cuda.max_memory_allocated(self.device) / 1e6, 1) if on_gpu else None,
            "metrics": {name: metric._asdict() for name, metric in self.metrics.items()},
        }
        folder = results_dir() / self.profile
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{self.name}.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
        caption = (
            f"{self.name}, profile {self.profile}, seed {self.seed}: {result['wall_seconds']:.0f} s, "
            f"{result['peak_memory_mb']:.0f} MB, {result['device']}, commit {result['commit']}"
        )
        return Table(caption, [_row(name, metric) for name, metric in self.metrics.items()])


def _row(name: str, metric: Metric) -> tuple[str, ...]:
    paper = "" if metric.paper is None else f"{metric.paper:g} ({metric.source})"
    value = str(metric.value) if isinstance(metric.value, int) else f"{metric.value:.4g}"
    return name, value, metric.unit, metric.kind, paper


def start(name: str, profile: str = "auto", seed: int = 0) -> Run:
    """Begin the run of notebook `name`: choose profile, device and dtype (and print why), seed everything.

    The smoke profile always uses the CPU, so its numbers do not depend on the machine having a GPU.
    Raises TasteError for an unknown profile.
    """
    started, started_cpu = time.perf_counter(), time.process_time()
    import torch

    has_gpu = torch.cuda.is_available()
    profile, why = resolve_profile(profile, has_gpu)
    device = torch.device("cuda" if has_gpu and profile != "smoke" else "cpu")
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    dtype, why_dtype = resolve_dtype(capability)
    seed_everything(seed)
    print(f"{name}: profile {profile} ({why}), device {device.type}, {dtype} ({why_dtype}), seed {seed}")
    values = settings(name, profile)
    return Run(name, profile, seed, device, getattr(torch, dtype), values, started=started, started_cpu=started_cpu)
