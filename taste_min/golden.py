"""Golden files: weights (`w.`), inputs (`i.`) and expected outputs (`o.`) of one original module, under original names.

What the golden-tensor checks in parity.py, parity_decoder.py and parity_taslm.py share: reading such a file, comparing
one output, and turning original key names into ours.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import torch
from safetensors import SafetensorError, safe_open

from .config import RVQConfig
from .errors import TasteError
from .quantizer import ResidualVQ, rename_original

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Row:
    """One compared output: the largest absolute difference, and whether it is within tolerance (indices: equal)."""

    file: str
    output: str
    max_diff: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.max_diff <= self.tolerance  # False for NaN


@dataclass(frozen=True)
class Golden:
    """One golden file: tensors by their original names without the leading `w.`, `i.` or `o.`."""

    name: str
    config: dict
    weights: Tensors
    inputs: Tensors
    outputs: Tensors

    def row(self, output: str, ours: torch.Tensor, tolerance: float = 1e-5) -> Row:
        ours, expected = ours.detach(), self.outputs[output]
        if ours.shape != expected.shape:
            return Row(self.name, output, float("nan"), tolerance)
        if not expected.is_floating_point():
            return Row(self.name, output, float((ours != expected).sum()), 0.0)
        return Row(self.name, output, float((ours - expected).abs().max()), tolerance)


def load_golden(path: Path) -> Golden:
    """Read a golden file. Raises TasteError when it is not a safetensors file or lacks its configuration."""
    try:
        with safe_open(str(path), "pt") as file:
            config = json.loads((file.metadata() or {}).get("config", "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError, ValueError, RecursionError) as error:  # JSON errors are ValueErrors
        reason = shorten(str(error), 99)
        raise TasteError(f"{path.name} is not a golden file ({reason}); copy it again.") from error
    if not isinstance(config, dict):
        raise TasteError(f"{path.name} has no configuration in its metadata; it is not a golden file.")
    parts = [
        {key[2:]: value for key, value in tensors.items() if key.startswith(prefix)} for prefix in ("w.", "i.", "o.")
    ]
    return Golden(path.stem, config, *parts)


def expand_tables(weights: Tensors, n_rows: dict[str, int]) -> Tensors:
    """Rebuild embedding tables that are stored as `<key>.ids` and `<key>.rows`; rows never read stay zero."""
    weights = dict(weights)
    for key, count in n_rows.items():
        rows = weights.pop(f"{key}.rows")
        table = rows.new_zeros(count, rows.shape[1])
        table[weights.pop(f"{key}.ids")] = rows
        weights[key] = table
    return weights


def strip_prefix(weights: Tensors, prefix: str) -> Tensors:
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def load_rvq(config: RVQConfig, weights: Tensors) -> ResidualVQ:
    """Weights under original names, `rvq.layers.0._codebook.embed` and so on."""
    model = ResidualVQ(config)
    model.load_state_dict(rename_original(strip_prefix(weights, "rvq.")))
    return model
