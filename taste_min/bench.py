"""How long every step of encoding and decoding takes: `taste-min bench`.

`Taste.encode` and `Taste.decode` run as always; a stopwatch sits on the methods that do the work.

Axes: S samples.
"""

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch

from .audio import SAMPLE_RATE
from .clips import sample_clips
from .errors import TasteError
from .repro import peak_memory_mb
from .tokenizer import Taste

STEPS = {  # step -> (part of Taste, its method)
    "recogniser": ("recognizer", "transcribe"),
    "encoder": ("encoder", "forward"),
    "aggregator": ("aggregator", "forward"),
    "quantizer": ("quantizer", "forward"),
    "speaker": ("speaker_encoder", "speaker_embedding"),
    "unit decoder": ("unit_decoder", "generate"),
    "flow": ("flow", "generate"),
    "vocoder": ("vocoder", "forward"),
}
REST = "rest"  # log-mel, tokenizing, copying
MAX_SECONDS = 30  # one window, so that every encoding step runs once


@dataclass(frozen=True)
class Step:
    """seconds: median over the runs. share: of encoding and decoding together, 0..1."""

    name: str
    seconds: float
    share: float


@dataclass(frozen=True)
class Benchmark:
    """Medians over `runs`, in seconds; `total` = encode + decode.

    real_time_factor: total per second of speech, so below 1 is faster than real time. spoken_seconds: length of the
    decoded speech. peak_memory_mb: of the whole process, in MB (10^6 bytes).
    """

    speech_seconds: float
    spoken_seconds: float
    encode: float
    decode: float
    total: float
    real_time_factor: float
    steps: list[Step]
    runs: int
    device: str
    threads: int
    peak_memory_mb: float


@contextmanager
def stopwatch(taste: Taste) -> Iterator[dict[str, float]]:
    """Add up the seconds spent in every step of STEPS while the block runs."""
    seconds = dict.fromkeys(STEPS, 0.0)

    def timed(step, method):
        def run(*args, **kwargs):
            started = _now(taste.device)
            result = method(*args, **kwargs)
            seconds[step] += _now(taste.device) - started
            return result

        return run

    places = [(step, getattr(taste, part), name) for step, (part, name) in STEPS.items()]
    for step, part, name in places:
        setattr(part, name, timed(step, getattr(part, name)))  # on the object, in front of the method of its class
    try:
        yield seconds
    finally:
        for _, part, name in places:
            delattr(part, name)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # a GPU works on after the call returns
    return time.perf_counter()


def measure(taste: Taste, wav: torch.Tensor, runs: int = 3) -> Benchmark:
    """Encode and decode `wav (S,)` at 16 kHz `runs` times, after one run that does not count.

    Raises TasteError when a part is missing or nothing is heard.
    """
    for name in ("quantizer", "unit_decoder", "flow", "vocoder"):
        taste.part(name)
    rows = []
    for _ in range(runs + 1):
        with stopwatch(taste) as seconds:
            started = _now(taste.device)
            tokens = taste.encode(wav)
            encoded = _now(taste.device)
            decoded = taste.decode(tokens)
            done = _now(taste.device)
        total = done - started
        rows.append(
            {**seconds, REST: total - sum(seconds.values()), "encode": encoded - started, "decode": done - encoded}
        )
    median = {name: statistics.median(row[name] for row in rows[1:]) for name in rows[0]}
    total = median["encode"] + median["decode"]
    whole = sum(median[name] for name in (*STEPS, REST))  # medians of parts need not add up to that of the whole
    return Benchmark(
        speech_seconds=len(wav) / SAMPLE_RATE,
        spoken_seconds=len(decoded.wav) / decoded.sample_rate,
        encode=median["encode"],
        decode=median["decode"],
        total=total,
        real_time_factor=total / (len(wav) / SAMPLE_RATE),
        steps=[Step(name, median[name], median[name] / whole) for name in (*STEPS, REST)],
        runs=runs,
        device=torch.cuda.get_device_name() if taste.device.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        peak_memory_mb=round(peak_memory_mb(), 1),
    )


def sample_speech(seconds: float) -> torch.Tensor:
    """The shipped samples one after the other, cut to a length in seconds: (S,) at 16 kHz."""
    size, parts = round(seconds * SAMPLE_RATE), []
    for clip in sample_clips():
        parts.append(clip.wav)
        if sum(map(len, parts)) >= size:
            return torch.cat(parts)[:size]
    raise TasteError(f"the samples last {sum(map(len, parts)) / SAMPLE_RATE:.0f} s; choose fewer --seconds.")


def command(args) -> int:
    """`taste-min bench`: args.seconds, args.runs, args.preset, args.json."""
    if not 1 <= args.seconds <= MAX_SECONDS or args.runs < 1:
        raise TasteError(f"--seconds must lie in 1..{MAX_SECONDS} and --runs must be at least 1.")
    taste = Taste.from_pretrained(args.preset)
    if torch.cuda.is_available():
        taste = taste.to("cuda")
    result = measure(taste, sample_speech(args.seconds), args.runs)
    if args.json:
        print(json.dumps(asdict(result), indent=2))
        return 0
    print(f"{'step':<14}{'seconds':>9}{'share':>8}")
    for step in result.steps:
        print(f"{step.name:<14}{step.seconds:>9.3f}{step.share:>8.1%}")
    print(f"encode {result.encode:.2f} s + decode {result.decode:.2f} s = {result.total:.2f} s", end=" ")
    print(f"for {result.speech_seconds:.1f} s of speech ({result.real_time_factor:.2f} x real time)")
    print(f"median of {result.runs} runs on {result.device}, {result.threads} threads, {result.peak_memory_mb:.0f} MB")
    return 0
