"""Is every tensor of the released checkpoints accounted for? Checked without their weights, on names, shapes and types.

The lists are `name <tab> shape <tab> type`, one line per tensor, for the released model and for its voice generator.
Our modules are built at the paper's sizes without memory, their tensors are named as the original names them, and
both directions have to agree: what loading hands to a module, and what an export writes.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from .config import paper, taslm_paper
from .errors import TasteError
from .export import MAKERS
from .golden import Tensors
from .released import empty, empty_taslm
from .released_keys import PREFIXES, UNREAD, read_keys, to_original, to_ours

LISTS = "released_*_keys.tsv"


@dataclass(frozen=True)
class Accounting:
    """matched: released tensors that we have with the same shape and type. unread: those of them that nothing computes
    with. missing: released tensors that we have not, or otherwise. unexpected: the reverse. numbers: how many numbers
    the matched tensors hold together."""

    file: str
    matched: list[str]
    unread: list[str]
    missing: list[str]
    unexpected: list[str]
    numbers: int

    @property
    def ok(self) -> bool:
        return bool(self.matched) and not self.missing and not self.unexpected

    def report(self) -> dict:
        """For JSON: counts of what is in order, names of what is not."""
        counts = {"matched": len(self.matched), "unread": len(self.unread), "numbers": self.numbers}
        return {"file": self.file, **counts, "missing": self.missing, "unexpected": self.unexpected, "ok": self.ok}

    def __str__(self) -> str:
        kinds = (("missing", self.missing), ("unexpected", self.unexpected))
        left = "".join(f"; {len(names)} {kind}, the first is {names[0]}" for kind, names in kinds if names)
        return (
            f"{self.file}: {len(self.matched)} tensors with {self.numbers:,} numbers match, "
            f"{len(self.unread)} of them unread{left}"
        )


def account(keys_tsv: str | Path) -> Accounting:
    """Compare a list of released tensors with our modules at the paper's sizes. No weights, hardly any memory.

    Raises TasteError when the file is no such list.
    """
    path = Path(keys_tsv)
    if not path.is_file():
        raise TasteError(f"there is no list of tensors at {path}; correct the name.")
    theirs = read_keys(path)
    loaded = to_ours(theirs)
    ours = {part: _paper(part) for part in PREFIXES if part in loaded}
    exported = to_original(ours)
    loaded = {part: {key: _type(value) for key, value in weights.items()} for part, weights in loaded.items()}
    lost = {  # tensors of a module that loading does not fill
        f"{PREFIXES[part]}{key} (in no released tensor)"
        for part, weights in ours.items()
        for key, value in weights.items()
        if not key.startswith("quantizer.") and loaded[part].get(key) != _type(value)
    }
    same = {name for name in theirs.keys() & exported.keys() if _type(theirs[name]) == _type(exported[name])}
    matched = [name for name in theirs if name in same]
    return Accounting(
        path.name,
        matched,
        [name for name in matched if name.startswith(UNREAD)],
        [name for name in theirs if name not in same],
        [name for name in exported if name not in same] + sorted(lost),
        sum(theirs[name].numel() for name in matched),
    )


# What `fingerprint` gives for the two lists, of the released model and of its voice generator.
FINGERPRINTS = {"taste": "7b018753ace62fcb", "voice_generator": "e758961c7631dfec"}
PARTS = {
    "taste": ("encoder", "aggregator", "quantizer", "unit_decoder", "taslm"),
    "voice_generator": ("flow", "vocoder"),
}


def full_size(name: str) -> Tensors:
    """Every tensor of one released file, "taste" or "voice_generator", as our modules would export it; no memory."""
    return to_original({part: _paper(part) for part in PARTS[name]})


def fingerprint(tensors: Tensors) -> str:
    """Sixteen hexadecimal digits that stand for all names, shapes and types."""
    lines = sorted(f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in tensors.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _paper(part: str) -> Tensors:
    """Tensors without memory of one part, with the sizes and types of the released model."""
    if part in MAKERS:
        return empty(part, paper(), bfloat16=part in ("encoder", "aggregator")).state_dict()
    return empty_taslm(taslm_paper()).state_dict()


def _type(tensor) -> tuple:
    return tuple(tensor.shape), tensor.dtype
