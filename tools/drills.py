"""Faults on purpose, with real processes: `python tools/drills.py [NAME ...]` writes results/full/drills.json.

Each drill breaks something, looks at what is left, and does it again undisturbed; it fails with an AssertionError.
What is fast is a test instead:

| fault | where |
|---|---|
| kill -9 during fetch; two processes fetching | drills `fetch`; test_assets (killed_in_the_middle, two_processes) |
| kill -9 during prepare; its full disk; other languages | drill `prepare`; test_corpus_files, test_files |
| kill -9 during corpus build | drill `corpus_build` (extra `corpus`); test_corpus, test_corpus_files |
| kill -9 during training | test_train (a_killed_run_continues); metrics.jsonl: test_train (drops_what_followed) |
| kill -9 during execute | drill `execute` |
| full disk, for every writer | drill `encode`; test_files (a_full_disk); while fetching: test_assets (disk_full) |
| read-only cache | test_assets (unwritable_cache) |
| clock and language | drill `turkish` (Debian package locales); test_files (languages_and_time_zones, nobody_asks) |
| no network; a wheel that vanished; a folder or hub copy instead | test_assets (no_network, package_gone, override) |
| damaged records of our own | test_export, test_evaluate, test_corpus_files, test_files, test_train |
| odd and long recordings | drills `odd_audio`, `long_audio`; test_audio, test_tokenizer |
"""

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch

from taste_min import assets, repro
from taste_min.audio import SAMPLE_RATE, read_audio, read_windows
from taste_min.corpus import load_manifest
from taste_min.errors import TasteError
from taste_min.files import write_whole
from taste_min.tokenizer import Taste

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]
CLI = (sys.executable, "-m", "taste_min.cli")
LONG_WINDOWS = 3  # of the long recording that are encoded; all are read


def start(*command: str | Path, full_at: int | None = None, **environment: str) -> subprocess.Popen:
    """A process of its own session. full_at: no file of it can grow beyond so many bytes."""
    limit = full_at and (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (full_at, full_at)))
    settings = {"env": os.environ | {"PYTHONPATH": str(ROOT)} | environment, "preexec_fn": limit or None}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(word) for word in command], start_new_session=True, **settings, **pipes)


def done(process: subprocess.Popen) -> tuple[int, str]:
    out, err = process.communicate()
    return process.returncode, out + err


def killed(process: subprocess.Popen, when: Callable[[], bool]) -> None:
    """kill -9 to the process and all it started, as soon as `when()`."""
    while not when():
        assert process.poll() is None, f"it ended before it could be killed: {process.communicate()}"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def prepare(folder: Path) -> dict:
    from corpus_trees import contents, librispeech

    librispeech(folder)

    def run(out: str, **how) -> subprocess.Popen:
        return start(*CLI, "prepare", "librispeech", folder, "--out", folder / out, **how)

    assert done(run("whole"))[0] == 0
    whole, manifest = contents(folder / "whole"), folder / "out" / "manifest.tsv"
    killed(run("out"), lambda: manifest.is_file() and manifest.read_bytes().count(b"\n") > 2)
    left = manifest.read_bytes().count(b"\n") - 1
    assert 0 < left < whole["manifest.tsv"].count(b"\n") - 1, "it was killed too late"
    code, said = done(run("out", full_at=20_000))
    sentence = said.strip().splitlines()[-1].replace(str(folder), "FOLDER")
    assert code == 2 and "Traceback" not in said and "to go on" in sentence, said
    other = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TZ": "Pacific/Kiritimati"}
    assert done(run("out", **other))[0] == 0 and contents(folder / "out") == whole
    return {"rows": whole["manifest.tsv"].count(b"\n") - 1, "rows_when_killed": left, "full_disk_says": sentence}


def fetch(folder: Path) -> dict:
    def run(cache: str) -> subprocess.Popen:
        return start(*CLI, "fetch", "ge2e", XDG_CACHE_HOME=str(folder / cache))

    inside = folder / "a" / "taste_min" / "assets"
    killed(run("a"), lambda: any(inside.glob(".ge2e.partial-*")))
    assert not (inside / "ge2e").exists()
    assert done(run("a"))[0] == 0 and sorted(p.name for p in inside.iterdir()) == [".ge2e.lock", "ge2e"]
    together = [run("b"), run("b")]
    codes = [done(process) for process in together]
    assert [code for code, _ in codes] == [0, 0] and "another process is fetching it" in codes[0][1] + codes[1][1]
    files = {cache: (folder / cache / "taste_min/assets/ge2e/pretrained.pt").read_bytes() for cache in "ab"}
    assert files["a"] == files["b"] == (assets.fetch("ge2e") / "pretrained.pt").read_bytes()
    return {"asset": "ge2e", "waited": True}


def corpus_build(folder: Path) -> dict:
    from corpus_trees import contents

    def run(out: str) -> subprocess.Popen:
        return start(*CLI, "corpus", "build", "--hours", "0.02", "--voices", "joe", "--out", folder / out)

    assert done(run("whole"))[0] == 0
    whole, manifest = contents(folder / "whole"), folder / "killed" / "manifest.tsv"
    killed(run("killed"), lambda: manifest.is_file() and manifest.read_bytes().count(b"\n") > 1)
    left = manifest.read_bytes().count(b"\n") - 1
    assert done(run("killed"))[0] == 0 and contents(folder / "killed") == whole
    return {"rows_when_killed": left, "rows": whole["manifest.tsv"].count(b"\n") - 1}


def execute(folder: Path) -> dict:
    """A copy of the project whose table of contents holds one small notebook."""
    import nbformat

    for name in ("tools", "taste_min"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "samples"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "_toc.yml").write_text("format: jb-book\nroot: notebooks/00_drill\n", encoding="utf-8")
    source = (ROOT / "_config.yml").read_text(encoding="utf-8")
    (folder / "_config.yml").write_text(source, encoding="utf-8")
    cells = [
        nbformat.v4.new_code_cell('profile = "auto"\nseed = 0', metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(
            "import time\nfrom taste_min import repro\nrun = repro.start('00_drill', profile, seed)"
        ),
        nbformat.v4.new_code_cell("run.metric('one', 1, '', kind='exact')\ntime.sleep(2)"),
        nbformat.v4.new_code_cell("run.record()"),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    (folder / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "notebooks" / "00_drill.ipynb")
    begun = folder / "_build" / "executed" / "00_drill.ipynb"
    result = folder / "results" / "smoke" / "00_drill.json"

    def run() -> subprocess.Popen:
        return start(sys.executable, folder / "tools" / "execute.py", "00_drill", PYTHONPATH=str(folder))

    killed(run(), lambda: begun.is_file() and '"run.metric' in begun.read_text() and "wall" not in begun.read_text())
    assert not result.exists() and not begun.with_suffix(".key").exists()
    code, said = done(run())
    assert code == 0 and json.loads(result.read_text())["metrics"]["one"]["value"] == 1, said
    code, said = done(run())
    assert code == 0 and "unchanged" in said
    return {"third_run": "unchanged"}


def encode(folder: Path) -> dict:
    clip, out = sorted(assets.fetch("librivox").glob("*.wav"))[0], folder / "a.safetensors"
    code, said = done(start(*CLI, "encode", clip, "-o", out, full_at=2000))
    assert code == 2 and said.count("\n") == 1 and not any(folder.iterdir()), said
    assert done(start(*CLI, "encode", clip, "-o", out))[0] == 0 and [p.name for p in folder.iterdir()] == [out.name]
    return {"full_disk_says": said.strip().replace(str(folder), "FOLDER")}


TURKISH = """
import locale, sys
locale.setlocale(locale.LC_ALL, "")
assert locale.format_string("%.1f", 1.5) == sys.argv.pop(1)
from taste_min.cli import main
sys.exit(main())
"""


def turkish(folder: Path) -> dict:
    """A decimal comma and an i of its own, in a program that took over the language of the machine."""
    clip, said = sorted(assets.fetch("librivox").glob("*.wav"))[1], []
    subprocess.run(["localedef", "-i", "tr_TR", "-f", "UTF-8", folder / "tr_TR.UTF-8"], check=True)
    for language, number in (("C.UTF-8", "1.5"), ("tr_TR.UTF-8", "1,5")):
        out = folder / f"{number}.safetensors"
        words = (sys.executable, "-c", TURKISH, number, "encode", clip, "--json", "-o", out)
        said.append(done(start(*words, LOCPATH=str(folder), LC_ALL=language, TZ="Europe/Istanbul")))
        assert said[-1][0] == 0, said[-1]
    files = [(folder / f"{number}.safetensors").read_bytes() for number in ("1.5", "1,5")]
    assert said[0] == said[1] and files[0] == files[1]
    return {"words": len(json.loads(said[0][1])["words"]), "same_bytes": True}


def odd_audio(folder: Path) -> dict:
    from torchaudio.functional import resample  # not above: taste_min comes first

    taste, clips = Taste.from_pretrained("mini"), sorted(assets.fetch("librivox").glob("*.wav"))
    a, b = (read_audio(path)[: 4 * SAMPLE_RATE] for path in clips[:2])
    time_axis = torch.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    chord = sum(torch.sin(2 * torch.pi * f * time_axis) for f in (220.0, 277.2, 329.6)) / 4
    low = resample(resample(a, SAMPLE_RATE, 8000), 8000, SAMPLE_RATE)
    n = min(len(a), len(b))
    sounds = {
        "speech": a,
        "clipped twentyfold": (20 * a).clamp(-1, 1),
        "telephone band, raised to 16 kHz": low,
        "two speakers at once": a[:n] + b[:n],
        "a chord": chord,
        "noise": torch.randn(2 * SAMPLE_RATE, generator=torch.Generator().manual_seed(0)) / 9,
        "a click": torch.nn.functional.pad(torch.ones(1), (8000, 8000)),
    }
    heard = {}
    for name, wav in sounds.items():
        try:
            tokens = taste.encode(wav)
        except TasteError as error:
            heard[name] = str(error)
            continue
        edges = [edge for word in tokens.words for edge in (word.start, word.end)]
        assert edges == sorted(edges) and edges[0] >= 0 and edges[-1] <= tokens.seconds + 0.02, name
        assert tokens.embeddings.isfinite().all() and tokens.codes.min() >= 0, name
        heard[name] = tokens.text
    soundfile.write(folder / "8khz.wav", low[::2].numpy(), 8000)
    try:
        read_audio(folder / "8khz.wav", convert=True)
    except TasteError as error:
        heard["a file of 8 kHz"] = str(error)
    assert "8000 Hz" in heard["a file of 8 kHz"]
    return {"heard": heard}


def long_audio(folder: Path) -> dict:
    """Two hours of the samples at 22.05 kHz; all of it is read, the first windows are encoded."""
    speech = [read_audio(row.audio, 22_050).numpy() for row in load_manifest(ROOT / "taste_min" / "samples")]
    minutes, n_samples = np.concatenate(speech), 0
    with soundfile.SoundFile(folder / "long.flac", "w", 22_050, 1) as file:
        while n_samples < 7200 * 22_050:
            file.write(minutes)
            n_samples += len(minutes)
    seconds, memory, n = n_samples / 22_050, [repro.peak_memory_mb()], 0
    for window in read_windows(folder / "long.flac", convert=True):
        n += len(window)
    memory.append(repro.peak_memory_mb())
    assert abs(n / SAMPLE_RATE - seconds) < 1e-3
    grown = memory[1] - memory[0]
    assert grown < 100, f"{grown} MB; the recording takes {n * 4 / 1e6:.0f} MB"
    taste, taken = Taste.from_pretrained("mini"), []
    for number, window in enumerate(read_windows(folder / "long.flac", convert=True)):
        if number == LONG_WINDOWS:
            break
        taken.append(window)
    tokens = taste.encode_windows(iter(taken))
    starts = [word.start for word in tokens.words]
    assert starts == sorted(starts) and starts[-1] > 30 * (LONG_WINDOWS - 1) * 0.8
    whole = {"hours": round(seconds / 3600, 3), "megabytes_as_one_array": round(n * 4 / 1e6)}
    return whole | {"megabytes_to_read_it": round(grown), "windows_encoded": len(taken), "words": len(tokens.words)}


DRILLS = {f.__name__: f for f in (prepare, fetch, corpus_build, execute, encode, turkish, odd_audio, long_audio)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *DRILLS], help="default: all of them")
    names, path = parser.parse_args().names or list(DRILLS), repro.results_dir() / "full" / "drills.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            found = DRILLS[name](Path(folder))
        record[name] = {**found, "outcome": "clean", "commit": repro.commit(), "versions": repro.versions()}
        write_whole(path, json.dumps(dict(sorted(record.items())), indent=1, ensure_ascii=False) + "\n")
        print(f"{name}: {found}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
