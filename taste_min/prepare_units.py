"""S3 units and CAM++ speaker vectors of a prepared corpus, which the paper's unit decoder learns from (section 4.1).

`taste-min prepare ... --graphs FOLDER` runs the two ONNX graphs of the released checkpoint over the recordings and
writes files that `data.FeatureStore` opens, one per 32 utterances. A file appears whole or not at all; those that are
there and fit are kept. The mini preset needs none of this: it has units and a speaker encoder of its own.

Axes: U units.
"""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from .audio import SAMPLE_RATE, read_audio
from .corpus_files import explained, in_order
from .errors import TasteError
from .manifest import Utterance, read_manifest
from .s3 import S3Tokenizer
from .shards import SHARD, fits, write_shard
from .speaker import CAMPPlus

GRAPHS = ("speech_tokenizer_v1.onnx", "speaker_embed.onnx")  # as in the folder cosyvoice/ of the release


@dataclass(frozen=True)
class Part:
    """The utterances of one file, and where the graphs are. fingerprint: of the graphs."""

    path: Path
    utterances: tuple[Utterance, ...]
    graphs: Path
    fingerprint: str


def check_graphs(folder: str | Path) -> str:
    """Fingerprint of the two graphs. Raises TasteError when one is missing or cannot be opened."""
    _networks(Path(folder))
    return hashlib.sha256(b"".join(Path(folder, name).read_bytes() for name in GRAPHS)).hexdigest()[:16]


@functools.cache
def _networks(folder: Path) -> tuple[S3Tokenizer, CAMPPlus]:
    if not folder.is_dir():
        raise TasteError(f"{folder} is not a folder; give the one that holds {' and '.join(GRAPHS)}.")
    return S3Tokenizer(folder / GRAPHS[0]), CAMPPlus(folder / GRAPHS[1])


def add_units(out: Path, graphs: str | Path, workers: int = 1, progress: bool = True) -> int:
    """Write units (U,) and speaker_embedding (192,) of every utterance of the corpus folder `out` to `out`/units.

    Returns the number of files that were written. Raises TasteError for missing graphs.
    """
    fingerprint, folder = check_graphs(graphs), out / "units"
    folder.mkdir(exist_ok=True)
    for stray in folder.glob("*.part"):  # of a worker that was killed
        stray.unlink()
    rows, parts = read_manifest(out), []
    for number, start in enumerate(range(0, len(rows), SHARD)):
        path, part = folder / f"features-{number:05d}.safetensors", tuple(rows[start : start + SHARD])
        if not (path.is_file() and fits(path, part, fingerprint)):
            parts.append(Part(path, part, Path(graphs), fingerprint))
    with explained(out), tqdm(total=len(parts), desc="units", unit="file", disable=not progress) as bar:
        for _, future in in_order(make, parts, out, workers):
            future.result()
            bar.update()
    return len(parts)


def make(part: Part, out: Path) -> None:
    """Write one file."""
    s3, campplus = _networks(part.graphs)
    rows, features = [], []
    for u in part.utterances:
        wav = read_audio(u.audio, SAMPLE_RATE, convert=True)
        units = s3.encode(wav)
        features.append({"units": units.to(torch.int16), "speaker_embedding": campplus.speaker_embedding(wav)})
        rows.append({name: getattr(u, name) for name in ("id", "split", "speaker", "text", "seconds")})
        rows[-1]["n_units"] = len(units)
    write_shard(part.path, rows, features, part.fingerprint)
