"""How fuzz.py calls each reader of the package, and what it asks of a result."""

import contextlib
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fuzz_files as files
import soundfile
import torch
from hypothesis import strategies as st
from safetensors.torch import save

from taste_min import assets, cli
from taste_min.ct2 import load_whisper
from taste_min.errors import TasteError
from taste_min.manifest import read_manifest
from taste_min.recordings import read_recordings
from taste_min.released_config import read_settings, taslm_config, taste_config
from taste_min.released_files import read_tensors, read_tokenizer
from taste_min.tokens import TasteTokens
from taste_min.units import MiniUnits, nearest


@dataclass(frozen=True)
class Target:
    """One reader. cases: what it is fed. run: called with an empty folder and one case; also checks what it returns.

    cost: how many cheap cases one of its cases is worth. named: the message must name the file.
    """

    name: str
    cases: st.SearchStrategy
    run: Callable
    cost: int = 1
    named: bool = True


class Finding(AssertionError):
    """A case that broke the rules."""


def expect(true: bool, what: str) -> None:
    """A result that was returned must be usable."""
    if not true:
        raise Finding(f"a reader returned {what}")


def on_file(name: str, read: Callable, check: Callable = lambda result: None) -> Callable:
    """A `run` that writes the case to a file and reads that."""

    def run(folder: Path, case: bytes) -> None:
        path = folder / name
        path.write_bytes(case)
        check(read(path))

    return run


def check_audio(wav: torch.Tensor) -> None:
    expect(wav.ndim == 1 and bool(torch.isfinite(wav).all()), "odd audio")


def check_tokens(tokens: TasteTokens) -> None:
    """Everything that needs no model has to work on tokens that were read."""
    rate = tokens.bitrate()
    expect(math.isfinite(rate.total) and rate.total >= 0, "tokens without a bit rate")
    expect(all(isinstance(word.text, str) for word in tokens.words) and isinstance(tokens.text, str), "odd words")
    numbers = list(range(len(tokens.words)))
    tokens.pieces()
    tokens.swap(tokens, numbers)


def check_rows(rows: list) -> None:
    for row in rows:
        expect(math.isfinite(row.seconds) and row.seconds >= 0, f"{row.seconds} seconds")
        for word in row.words:
            text, start, end = (word.text, word.start, word.end) if hasattr(word, "text") else word
            expect(isinstance(text, str) and 0 <= start <= end < math.inf, f"the word {word}")


def check_questions(items: list) -> None:
    expect(bool(items), "no questions")
    for item in items:
        texts = (item.text, *item.answers)
        expect(bool(item.answers) and all(isinstance(text, str) and text.strip() for text in texts), f"{item}")


def check_variables(variables: dict) -> None:
    for array in variables.values():
        array.sum()


def check_units(units: MiniUnits) -> None:
    nearest((torch.zeros(2, len(units.mean)) - units.mean) @ units.projection, units.centroids)


def features_of(folder: Path, case: bytes) -> None:
    (folder / "manifest.tsv").write_bytes(case)
    check_rows(read_manifest(folder))


def recordings_of(folder: Path, case: bytes) -> None:
    soundfile.write(folder / "case.wav", files.tone(0.2), 16_000)
    (folder / "case.tsv").write_bytes(case)
    read_recordings(str(folder / "case.tsv"))


def checkpoint_of(folder: Path, case: tuple[bytes, str]) -> None:
    """One safetensors file and an index that may name files elsewhere."""
    (folder / "model.safetensors").write_bytes(case[0])
    (folder / "model.safetensors.index.json").write_text(case[1], encoding="utf-8", errors="replace")
    (folder.parent / "escaped.safetensors").write_bytes(save({"outside": torch.ones(1)}))
    expect("outside" not in read_tensors(folder, ("",)), "tensors of a file outside the folder")


def settings_of(folder: Path, case: str) -> None:
    """config.json, up to the sizes of all parts and the tokenizer that it names."""
    (folder / "config.json").write_text(case, encoding="utf-8", errors="replace")
    settings = read_settings(folder)
    taste_config(files.parts(), settings)
    taslm_config(files.parts(), settings)
    (folder / "tokenizer.json").write_text(json.dumps(files.TOKENIZER))
    read_tokenizer(folder, settings, "asr_config", "a/b", 10)


def whisper_of(folder: Path, case: tuple[bytes, str]) -> None:
    (folder / "model.bin").write_bytes(case[0])
    (folder / "config.json").write_text(case[1], encoding="utf-8", errors="replace")
    load_whisper(folder)


def unpickle(name: str, read: Callable) -> Callable:
    """A `run` for a file that is a pickle; no code in it may run."""

    def run(folder: Path, case: bytes) -> None:
        path = folder / name
        path.write_bytes(case)
        try:
            read(path)
        finally:
            if files.TRAP.exists():
                files.TRAP.rmdir()
                raise Finding(f"{name}: code in a pickle was run")

    return run


def archive_of(folder: Path, case: tuple[str, bytes]) -> None:
    """The members that the table of assets asks for, and nothing else, below `files`."""
    wanted = tuple(assets.File(f"{i}.bin", 4, "", (name,)) for i, name in enumerate(files.WANTED))
    (folder / case[0]).write_bytes(case[1])
    (folder / "files").mkdir()
    before = {path for path in folder.parent.rglob("*") if (folder / "files") not in path.parents}
    assets._unpack(folder / case[0], assets.Asset("a", "", "", "", (), wanted), folder / "files")
    after = {path for path in folder.parent.rglob("*") if (folder / "files") not in path.parents}
    expect(after == before, f"{after - before} outside the folder")
    found = {path.name for path in (folder / "files").iterdir()}
    expect(found <= {file.name for file in wanted}, f"the files {found}")


def command_of(folder: Path, case: list[str]) -> None:
    """`taste-min` with these words, in a folder with a few good and bad files; no model can be fetched."""
    for name, data in files.COMMAND_FILES.items():
        (folder / name).write_bytes(data)
    (folder / "empty").mkdir()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(case)
        except SystemExit as end:  # argparse prints its own sentence
            expect(end.code in (0, 2), f"exit code {end.code}")
            return
    expect(code in (0, 1, 2), f"exit code {code}")
    if code == 2:
        message = err.getvalue().rstrip("\n").splitlines()[-1].removeprefix("taste-min: ")
        raise TasteError(message)
