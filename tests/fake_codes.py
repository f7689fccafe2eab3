"""A folder of random codes at the sizes of the tiny preset, in the form of `taste-min extract`."""

from pathlib import Path

import torch

from taste_min.quantizer import ResidualVQ
from taste_min.shards import write_shard


def make_codes(folder: Path, quantizer: ResidualVQ, n: int = 32) -> Path:
    """The codes of a word follow from its first token, and the units too, so that there is something to learn."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, tensors = [], []
    for i in range(n):
        g = torch.Generator().manual_seed(i)
        word_ids = torch.arange(3 + i % 5).repeat_interleave(1 + i % 2)
        token_ids = torch.randint(100, (len(word_ids),), generator=g)
        first = token_ids[torch.cat([torch.ones(1), word_ids.diff()]).bool()]
        codes = (first[:, None] + torch.arange(4)) % 24
        units = (first[:, None] + torch.arange(5)).flatten() % 64
        rows.append({"id": f"u{i}", "split": "dev" if i % 4 == 3 else "train", "text": f"bird {i}", "seconds": 1.0})
        rows[-1] |= {"n_tokens": len(token_ids), "n_runs": len(units.unique_consecutive())}
        tensors.append({"token_ids": token_ids.int(), "word_ids": word_ids.int(), "codes": codes.short()})
        tensors[-1]["units"] = units.short()
    write_shard(folder / "features-00000.safetensors", rows, tensors, quantizer.fingerprint)
    return folder
