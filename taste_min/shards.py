"""The files of the feature cache: tensors of a few utterances, their manifest rows in the metadata."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .errors import TasteError

SHARD = 32  # utterances per file


def write_shard(path: Path, rows: Sequence[dict], features: Sequence[dict[str, torch.Tensor]], fingerprint: str):
    """One file: tensors `<position>.<name>`, and the manifest rows in the metadata. Written whole or not at all.

    The same content gives the same bytes: the metadata is one entry, because several come out in random order.
    """
    tensors = {f"{i}.{name}": tensor for i, f in enumerate(features) for name, tensor in f.items()}
    partial = path.with_suffix(f".{os.getpid()}.part")
    save_file(tensors, str(partial), metadata={"shard": json.dumps({"rows": list(rows), "fingerprint": fingerprint})})
    os.replace(partial, path)


def read_shard_rows(path: Path) -> tuple[list[dict], str]:
    """Manifest rows and fingerprint of a file. Raises TasteError when it is damaged."""
    try:
        with safe_open(str(path), "pt") as file:
            meta = file.metadata()
        # older files have an entry for each
        shard = json.loads(meta["shard"]) if "shard" in meta else meta | {"rows": json.loads(meta["rows"])}
        rows, fingerprint = shard["rows"], shard["fingerprint"]
        if not all({"id", "split", "text", "seconds"} <= row.keys() for row in rows):
            raise ValueError("a row lacks a name")
        return rows, fingerprint
    # JSON errors are ValueErrors; a row that is no table has no `keys`; JSON may be nested without end
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise TasteError(
            f"{path} is not a feature file; delete it and run `taste-min train features` again."
        ) from error


def fits(path: Path, utterances: Sequence, fingerprint: str) -> bool:
    """Whether a file holds these utterances (with id and text), made by what the fingerprint stands for."""
    rows, theirs = read_shard_rows(path)
    return theirs == fingerprint and [(r["id"], r["text"]) for r in rows] == [(u.id, u.text) for u in utterances]
