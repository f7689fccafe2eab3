"""The first quarter of an hour of somebody new, step by step; writes results/full/newcomer.json.

    python tools/newcomer.py [--clone FOLDER]

An empty folder, empty caches: clone, `make book`, then what the README shows, with a stereo recording at 44.1 kHz as a
telephone makes it, and the words that are wrong on the way. FOLDER: a clone in which `make book` has run; it is then
not made again. Every step has what was typed, how long it took, and the first and last line that it printed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import soundfile
import torch

from taste_min import repro
from taste_min.clips import human_clips, sample_clips
from taste_min.files import write_whole

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "full" / "newcomer.json"
PHONE_RATE = 44_100


def recordings(folder: Path) -> None:
    """What a newcomer has at hand, made from our own clips: mine.wav as a telephone writes it, and two readings."""
    from torchaudio.functional import resample  # after taste_min, see _torchaudio.py

    clip = human_clips()[1]
    wav = resample(clip.wav, 16_000, PHONE_RATE)
    soundfile.write(folder / "mine.wav", torch.stack([wav, wav], dim=1).numpy(), PHONE_RATE)
    for style in ("slow", "fast"):
        (take,) = (clip for clip in sample_clips() if clip.name == f"2629e4aed2-nezumi-{style}")
        soundfile.write(folder / f"{style}.wav", take.wav.numpy(), 16_000)


def steps(text: str) -> list[tuple[str, int]]:
    """What is typed, and the exit code that it should give. text: of the two readings."""
    said = f'--text "{text}"'
    return [
        ("taste-min encode mine.wav -o mine.safetensors", 2),  # stereo at 44.1 kHz: one sentence says what to do
        ("taste-min encode mine.wav -o mine.safetensors --convert", 0),
        ("taste-min decode mine.safetensors -o again.wav", 0),
        ("taste-min swap slow.wav fast.wav --words 1,90 -o swapped.wav", 2),  # there is no word 90
        (f"taste-min swap slow.wav fast.wav --words 1,3 {said} -o swapped.wav", 0),
        ("taste-min score mine.wav --convert", 0),
    ]


def take(command: str, folder: Path, expected: int, environment: dict[str, str]) -> dict:
    """Type one line. Raises AssertionError when it ends otherwise than it should."""
    began = time.monotonic()
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.strip()] or [""]
    print(f"$ {command}\n  {lines[-1]}", flush=True)
    assert done.returncode == expected, done.stdout[-2000:]
    facts = {"typed": command, "exit": done.returncode, "seconds": round(time.monotonic() - began, 1)}
    return facts | {"first_line": lines[0].replace(str(folder), "."), "last_line": lines[-1].replace(str(folder), ".")}


def first_exercise(clone: Path, folder: Path, environment: dict[str, str]) -> dict:
    """The code of chapter 0 down to the solution of its first exercise, as one program."""
    cells = json.loads((clone / "notebooks" / "00_quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    last = next(i for i, cell in enumerate(cells) if "".join(cell["source"]).startswith("path = sorted(assets"))
    code = ["".join(cell["source"]) for cell in cells[: last + 1] if cell["cell_type"] == "code"]
    (folder / "exercise.py").write_text("\n\n".join(code), encoding="utf-8")
    return take("python exercise.py", folder, 0, environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clone", type=Path, help="a clone of this repository in which `make book` has run")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, taken = Path(scratch), []
        clone = (args.clone or folder / "clone").resolve()
        plain = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        plain |= {"PATH": f"{clone}/.venv/bin:{os.environ['PATH']}"}
        if not args.clone:
            plain |= {"XDG_CACHE_HOME": f"{scratch}/cache"}
            taken += [take(f"git clone -q {ROOT} clone", folder, 0, plain), take("make book", clone, 0, plain)]
        recordings(folder)
        taken.append(first_exercise(clone, folder, plain))
        text = next(clip.text for clip in sample_clips() if clip.name == "2629e4aed2-nezumi-slow")
        taken += [take(command, folder, expected, plain) for command, expected in steps(text)]
        assert (folder / "swapped.wav").stat().st_size > 10_000
    run = {"commit": repro.commit(), "python": sys.version.split()[0], "threads": torch.get_num_threads()}
    write_whole(OUT, json.dumps({"steps": taken, "run": run}, indent=2) + "\n")


if __name__ == "__main__":
    main()
