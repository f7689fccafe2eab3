"""A feature folder of random numbers at the sizes of the tiny preset, for the tests of data and training."""

from pathlib import Path

import torch

from taste_min.shards import SHARD, write_shard


def fake_features(seed: int, n_tokens: int, n_units: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    n_mels = int(n_units / 50 * 22050 / 256)
    words = torch.arange(n_tokens) // 2
    tone = torch.sin(torch.arange(n_mels * 256) * 0.05) * 9000
    return {
        "token_ids": torch.randint(90, (n_tokens,), generator=g).int(),
        "word_ids": words.int(),
        "last": torch.randn(n_units + 1, 32, generator=g).half(),
        "hidden_2": torch.randn(n_units + 1, 32, generator=g).half(),
        "units": (torch.randint(4, (n_units,), generator=g) + torch.arange(n_units) % 50).short(),
        "speaker_embedding": torch.randn(12, generator=g).half(),
        "mel": torch.arange(n_mels).half().expand(80, -1).contiguous() / 100,
        "f0": torch.full((n_mels,), 176.0).half(),
        "wav": tone.short(),
        "pointer": (torch.arange(n_units) // 5).short(),
        "prosody": torch.randn(int(words[-1]) + 1, 4, generator=g).half(),
    }


def make_features(folder: Path, n: int = 40, splits: tuple[str, ...] = ("train", "train", "train", "dev")) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows, features = [], []
    for i in range(n):
        f = fake_features(i, 4 + i % 5, 20 + 3 * (i % 7))
        lengths = {"n_tokens": len(f["token_ids"]), "n_frames": len(f["last"]), "n_units": len(f["units"])}
        rows.append({"id": f"u{i}", "split": splits[i % len(splits)], "speaker": "a", "style": "", "seconds": 1.0})
        rows[-1] |= {"text": "big bird", "n_sounds": 9, "n_mels": f["mel"].shape[1], **lengths}
        features.append(f)
    for k in range(0, n, SHARD):
        write_shard(
            folder / f"features-{k // SHARD:05d}.safetensors", rows[k : k + SHARD], features[k : k + SHARD], "x"
        )
    return folder
