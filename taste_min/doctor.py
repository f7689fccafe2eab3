"""What this machine can run, which profile fits and why: `taste-min doctor`, and the first cell of a notebook.

Looking and judging are apart, so that a test can describe a machine that it does not have.
"""

import json
import os
import platform
import socket
from dataclasses import asdict, dataclass
from html import escape
from importlib import metadata

from .repro import resolve_dtype, resolve_profile, results_dir

HUB = ("huggingface.co", 443)
RELEASE_GB = 8.0  # 2.46 billion numbers, most of them in two bytes, the voice generator, and room to work
BUDGET_MINUTES = 8.0  # of all notebooks in the profile smoke, on two cores


@dataclass(frozen=True)
class Machine:
    """gpu: name, or None. gpu_memory_gb: 10^9 bytes. capability: CUDA compute capability. network: the hub answers."""

    python: str
    torch: str
    cores: int
    network: bool
    gpu: str | None = None
    gpu_memory_gb: float = 0.0
    capability: tuple[int, int] | None = None


@dataclass(frozen=True)
class Advice:
    """minutes: that all notebooks take, None = nobody measured it on such a machine. release: the released checkpoint
    can be fetched and fits."""

    machine: Machine
    profile: str
    why: str
    dtype: str
    why_dtype: str
    minutes: float | None
    why_minutes: str
    release: bool
    why_release: str

    def rows(self) -> list[tuple[str, str, str]]:
        """(what, finding, reason) for a table."""
        m = self.machine
        gpu = "none" if m.gpu is None else f"{m.gpu}, {m.gpu_memory_gb:.0f} GB"
        minutes = "unknown" if self.minutes is None else f"about {self.minutes:.0f}"
        return [
            ("Python", m.python, ""),
            ("torch", m.torch, ""),
            ("processor", f"{m.cores} cores", ""),
            ("GPU", gpu, ""),
            ("network", "the hub answers" if m.network else "the hub does not answer", ""),
            ("profile", self.profile, self.why),
            ("numbers", self.dtype, self.why_dtype),
            ("minutes for all notebooks", minutes, self.why_minutes),
            ("released checkpoint", "can be loaded here" if self.release else "not here", self.why_release),
        ]

    def __str__(self) -> str:
        return "\n".join(f"{what:<26} {found}{' (' + why + ')' if why else ''}" for what, found, why in self.rows())

    def _repr_html_(self) -> str:
        lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows())
        head = "".join(f'<th scope="col">{name}</th>' for name in ("what", "here", "why"))
        return f'<table class="table"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>'


def look() -> Machine:
    """This machine. Asks the hub once, for at most three seconds; HF_HUB_OFFLINE keeps it from asking."""
    import torch

    gpu = {}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        gpu = {
            "gpu": properties.name,
            "gpu_memory_gb": properties.total_memory / 1e9,
            "capability": (properties.major, properties.minor),
        }
    return Machine(platform.python_version(), metadata.version("torch"), os.cpu_count() or 1, reaches_hub(), **gpu)


def reaches_hub() -> bool:
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return False
    try:
        socket.create_connection(HUB, timeout=3).close()
    except OSError:
        return False
    return True


def advise(machine: Machine, profile: str = "auto") -> Advice:
    """What to run there. Raises TasteError for an unknown profile."""
    profile, why = resolve_profile(profile, machine.gpu is not None)
    minutes, why_minutes = expected_minutes(profile)
    fits = machine.gpu_memory_gb >= RELEASE_GB
    if not machine.network:
        why_release = "it comes from the hub"
    elif not fits:
        why_release = f"it wants a GPU with {RELEASE_GB:.0f} GB"
    else:
        why_release = f"network, and {RELEASE_GB:.0f} GB of GPU memory or more"
    dtype, why_dtype = resolve_dtype(machine.capability)
    return Advice(machine, profile, why, dtype, why_dtype, minutes, why_minutes, machine.network and fits, why_release)


def expected_minutes(profile: str) -> tuple[float | None, str]:
    """Wall-clock minutes of the notebooks in a profile as recorded by the last runs, else the budget, else None."""
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in (results_dir() / profile).glob("[0-9]*.json")]
    if runs:
        return sum(run["wall_seconds"] for run in runs) / 60, f"{len(runs)} recorded runs on {runs[0]['device']}"
    if profile == "smoke":
        return BUDGET_MINUTES, "the budget on two cores; no run is recorded here"
    return None, "no run of this profile is recorded"


def command(args) -> int:
    """`taste-min doctor`: args.json."""
    advice = advise(look())
    print(json.dumps(asdict(advice), indent=2) if args.json else advice)
    return 0
