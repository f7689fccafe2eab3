"""Where the bytes of an original checkpoint come from: a folder, the hub, or files of the authors' trainer.

Tensors are memory-mapped: reading them costs no memory until they are used. Pickled files are read as plain weights;
no code in them is run.
"""

import functools
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from .errors import TasteError
from .golden import Tensors
from .text import load_tokenizer

WHISPER, LLAMA = "openai/whisper-large-v3", "meta-llama/Llama-3.2-1B"  # where the two tokenizers come from
WHISPER_FOLDER, LLAMA_FOLDER = "whisper_tokenizer", "llama_tokenizer"  # where a checkpoint may hold them
FILES = ["*.json", "*.safetensors"]  # of a repository; the tokenizers are .json files in folders
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
TRAINER_FILE = ".pt"


def is_original(name: str | Path) -> bool:
    """Whether a name means an original checkpoint: a folder with config.json, a trainer's .pt file, or a hub id."""
    path = Path(name)
    if path.is_dir():
        return (path / "config.json").is_file()
    return path.suffix == TRAINER_FILE or (isinstance(name, str) and bool(HUB_ID.fullmatch(name)))


def locate(name: str | Path, more: list[str] | None = None) -> Path:
    """The folder of a checkpoint. A name that is no folder is fetched from the hub once and then read from its cache.

    more: patterns of files that are fetched beside weights, configuration and tokenizers.
    Raises TasteError when it is neither a folder nor to be had.
    """
    if Path(name).is_dir():
        return Path(name)
    return _snapshot(str(name), FILES + (more or []), "copy the model into a folder and name that folder")


def setting(settings: dict, path: str, default: Any = None) -> Any:
    """The value at "section.key" of a config.json, or `default` where it is missing or null.

    Raises TasteError when it is of another type than the default; a whole number may stand for any number.
    """
    value: Any = settings
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if value is None or default is None:
        return default if value is None else value
    types = (int, float) if isinstance(default, float) else type(default)
    if not isinstance(value, types) or isinstance(value, bool) != isinstance(default, bool):
        raise TasteError(f"config.json has {path} = {value!r:.80}; a value such as {default!r:.80} belongs there.")
    return value


def read_tensors(folder: Path, prefixes: tuple[str, ...]) -> Tensors:
    """The tensors with these prefixes in the *.safetensors files of a folder, memory-mapped."""
    names = {path.name for path in folder.glob("*.safetensors")}
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            if any(Path(name).name != name or not name.isprintable() for name in names):
                raise ValueError("a file of another folder")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise TasteError(f"{index} is damaged; copy it again.") from error
    if not names:
        raise TasteError(f"there are no *.safetensors files in {folder}; copy the whole checkpoint.")
    tensors = {}
    for path in (folder / name for name in sorted(names)):
        try:
            with safe_open(str(path), "pt") as file:
                keys = [key for key in file.keys() if key.startswith(prefixes)]  # noqa: SIM118  not a dict
                tensors |= {key: file.get_tensor(key) for key in keys}
        except FileNotFoundError as error:
            raise TasteError(f"{path} is missing; copy the whole checkpoint.") from error
        except (OSError, SafetensorError) as error:
            raise TasteError(f"{path} is damaged or only a pointer to the file; download it again.") from error
    return tensors


def unpickle(path: Path, mmap: bool = False) -> Any:
    """What torch.save wrote, as far as it is plain data. Raises TasteError when it is damaged or holds code."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a damaged pickle is a damaged program: the reader fails with whatever that runs into
        raise TasteError(f"{path} is damaged or holds more than weights; make it or download it again.") from error


def read_pickle(path: Path) -> Tensors:
    """The tensors of a .pt or .pth file, memory-mapped where its format allows that. No code in the file is run."""
    if not path.is_file():
        raise TasteError(f"there is no file {path}; correct the name.")
    content = unpickle(path, mmap=zipfile.is_zipfile(path))
    tensors = content if isinstance(content, dict) else {}
    tensors = {name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise TasteError(f"{path} holds no state dict; name a file with the weights of a model.")
    return tensors


def read_voice(folder: Path) -> Tensors:
    """Flow and vocoder in `cosyvoice/` or in the folder itself, as flow.* and hift.*; {} when there are none."""
    for place in (folder / "cosyvoice", folder):
        if (place / "voice_generator.pth").is_file():
            return read_pickle(place / "voice_generator.pth")
        if (place / "flow.pt").is_file() and (place / "hift.pt").is_file():
            flow, hift = read_pickle(place / "flow.pt"), read_pickle(place / "hift.pt")
            # training wraps the vocoder, and its files keep that name
            hift = {name.removeprefix("generator."): value for name, value in hift.items()}
            return {f"flow.{name}": v for name, v in flow.items()} | {f"hift.{name}": v for name, v in hift.items()}
    return {}


def read_tokenizer(place: Path, settings: dict, section: str, default: str, vocab_size: int) -> Tokenizer:
    """tokenizer.json of the checkpoint, else of the model that its config.json names, else of `default`; no weights."""
    named = setting(settings, f"{section}._name_or_path", default)
    if (place / "tokenizer.json").is_file():
        folder = place
    elif (Path(named) / "tokenizer.json").is_file():
        folder = Path(named)
    else:
        repository = named if HUB_ID.fullmatch(named) else default  # the authors' own disk is no repository
        folder = _snapshot(repository, ["tokenizer.json"], f"put that model's tokenizer.json into {place}")
    tokenizer = load_tokenizer(folder)
    if max(tokenizer.get_vocab().values(), default=0) >= vocab_size:
        raise TasteError(f"{folder} has a tokenizer with more tokens than the model ({vocab_size}); replace it.")
    return tokenizer


def _snapshot(repository: str, files: list[str], advice: str) -> Path:
    """The folder of a hub repository in the hub's cache, after downloading what is not there yet."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError  # of whichever HTTP library the hub uses

    try:
        return Path(snapshot_download(repository, allow_patterns=files))
    except (OSError, ValueError, HTTPError) as error:
        raise TasteError(
            f"'{repository}' is no folder here and could not be downloaded ({type(error).__name__}); "
            f"check the name and the network, or {advice}."
        ) from error


class Late:
    """A part that is opened when something of it is first used: not everybody needs it, or has what it needs."""

    def __init__(self, make: Callable):
        self._make = make

    @functools.cached_property
    def _part(self):
        return self._make()

    def __getattr__(self, name: str):
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._part, name)
