"""Feeds damaged and hostile files to everything that reads one: `python tools/fuzz.py --cases 100000`.

Every case must end in a result or in a TasteError with one sentence that a user can act on: no other exception, no
hang, no memory that a forged header asked for, no code run from a pickle, no file outside the folder of an archive. The
test suite runs a few cases of each target (tests/test_fuzz.py); the record of a long run is results/full/fuzz.json.
"""

import argparse
import contextlib
import faulthandler
import re
import resource
import sys
import tempfile
import time
import warnings
from importlib import metadata
from pathlib import Path

import hypothesis
from fuzz_readers import Finding, Target
from fuzz_targets import TARGETS

from taste_min import assets
from taste_min.errors import TasteError
from taste_min.evaluate_command import write_json
from taste_min.repro import commit

OUT = Path(__file__).resolve().parents[1] / "results" / "full" / "fuzz.json"
BATCH = 500  # cases per seed
SECONDS, MEGABYTES = 5.0, 200  # processor time and memory that a file of a few kB may cost
LONGEST = 700  # letters of a message
NO_SENTENCE = re.compile(r"Traceback|<class|<[\w.]+ object|\b\w+(Error|Exception)\b|\n|\r")


@contextlib.contextmanager
def clean(target: Target):
    """Passes a TasteError with a good message; raises Finding for every other exception, and for too much time or
    memory."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak of memory starts again from here
    started, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        yield
    except TasteError as error:
        text = str(error)
        if not text.endswith(".") or NO_SENTENCE.search(text) or len(text) > LONGEST:
            raise Finding(f"{target.name}: not one clear sentence: {text[:LONGEST]!r}") from error
        if target.named and "case" not in text:  # every case lies in a folder `cases`
            raise Finding(f"{target.name}: the message does not name the file: {text!r}") from error
    except Finding:
        raise
    except Exception as error:
        raise Finding(f"{target.name}: {type(error).__name__}: {str(error)[:200]}") from error
    seconds = time.process_time() - started
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1000  # kilobytes on Linux
    if seconds > SECONDS or grown > MEGABYTES:
        raise Finding(f"{target.name}: {seconds:.1f} s and {grown:.0f} MB for one small file")


@contextlib.contextmanager
def no_network():
    """Models are not part of this: the call that would fetch one says so instead."""

    def fetch(name: str, *_, **__):
        raise TasteError("there is no network here.")

    original, assets.fetch = assets.fetch, fetch
    try:
        yield
    finally:
        assets.fetch = original


def run(target: Target, cases: int, seed: int) -> tuple[int, int]:
    """Feed a target with at most so many cases: how many it got, and how many of them it took for valid.

    Raises Finding with the smallest bad case.
    """
    done = accepted = 0

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=cases,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        report_multiple_bugs=False,
    )
    @hypothesis.given(target.cases)
    def check(case):
        nonlocal done, accepted
        done += 1
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root, "cases")
            folder.mkdir()
            with clean(target):
                target.run(folder, case)
                accepted += 1

    with no_network(), warnings.catch_warnings(action="ignore"):
        check()
    return done, accepted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000, help="of all targets together (default: 100000)")
    parser.add_argument("--only", help="targets whose name contains this; writes no record")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    facts = {"commit": commit(), "seed": args.seed, "hypothesis": metadata.version("hypothesis")}
    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, -1))  # a reader that asks for more gets a MemoryError
    chosen = [target for target in TARGETS if (args.only or "") in target.name]
    share, rows = args.cases / sum(1 / target.cost for target in chosen), {}
    for target in chosen:
        wanted, started = round(share / target.cost), time.process_time()
        done, accepted, findings = 0, 0, []
        for number in range(-(-wanted // BATCH)):
            faulthandler.dump_traceback_later(600, exit=True)  # a hang shows where
            try:
                fed, valid = run(target, min(BATCH, wanted - number * BATCH), args.seed + number)
                done, accepted = done + fed, accepted + valid
            except Finding as finding:
                findings.append(" ".join([str(finding), *getattr(finding, "__notes__", [])])[:600])
        seconds = round(time.process_time() - started, 1)
        rows[target.name] = {"cases": done, "valid": accepted, "cpu_seconds": seconds, "findings": findings}
        print(f"{target.name:<24}{done:>8} cases{seconds:>8.1f} s", *findings, sep="\n  ", flush=True)
    total = sum(row["cases"] for row in rows.values())
    print(f"{total} cases")
    if not args.only:
        write_json(OUT, {"cases": total, "targets": rows, "run": facts})
    sys.exit(any(row["findings"] for row in rows.values()))


if __name__ == "__main__":
    main()
