"""Batches for training: cached features, cut into batches of equal length, in an order that is a function of the step.

Nothing is drawn from a running random state: which utterances form micro-batch number n follows from (seed, n) alone.
So a resumed run sees what the interrupted one would have seen, and two processes share the batches of one.

Axes: B batch, N text tokens, T encoder frames, U units, F mel frames, M mel bands, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torchaudio
from safetensors import safe_open
from torch.nn.utils.rnn import pad_sequence

from .audio import vocoder_mel
from .errors import TasteError
from .phones import read_aloud
from .shards import read_shard_rows
from .text import split_words

POOL = 512  # utterances that are sorted by length together; larger = less padding, less shuffling


@dataclass(frozen=True)
class Batch:
    """Right-padded tensors; a stage loads only what it needs and the rest is None.

    token_ids, word_ids (B, N), token_lengths (B,). last, values (B, T, D), frame_lengths (B,).
    units (B, U), unit_lengths (B,). speaker_embedding (B, 256). mel (B, M, F), mel_lengths (B,).
    pointer (B, U): the sound that each unit belongs to, see `pointer.sound_path`; None for features without word times.
    sounds (B, U): the same as index in `phones.SYMBOLS`, 0 = unknown.
    prosody (B, N, 4) at the first token of each word, NaN elsewhere and where unknown; see `features.word_prosody`.
    f0 (B, F) in Hz and wav (B, 256 F) in [-1, 1]: only in the segments of the vocoder. starts (B,): mel frame at which
    each segment begins.
    """

    ids: tuple[str, ...] = ()
    token_ids: torch.Tensor | None = None
    word_ids: torch.Tensor | None = None
    token_lengths: torch.Tensor | None = None
    last: torch.Tensor | None = None
    values: torch.Tensor | None = None
    frame_lengths: torch.Tensor | None = None
    units: torch.Tensor | None = None
    unit_lengths: torch.Tensor | None = None
    pointer: torch.Tensor | None = None
    sounds: torch.Tensor | None = None
    speaker_embedding: torch.Tensor | None = None
    prosody: torch.Tensor | None = None
    mel: torch.Tensor | None = None
    mel_lengths: torch.Tensor | None = None
    f0: torch.Tensor | None = None
    wav: torch.Tensor | None = None
    starts: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> "Batch":
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v.to(device) for k, v in tensors.items() if isinstance(v, torch.Tensor)})


class FeatureStore:
    """The feature files of a folder. Rows are opened lazily and read straight from disk."""

    def __init__(self, folder: str | Path, split: str | Sequence[str] = "train"):
        """split: name or names in the manifest's column. Raises TasteError when there is nothing to read."""
        paths = sorted(Path(folder).glob("features-*.safetensors"))
        if not paths:
            raise TasteError(f"there are no features in {folder}; run `taste-min train features` first.")
        self.paths, self._open = paths, {}
        wanted = {split} if isinstance(split, str) else set(split)
        self.rows, self._places, seen = [], [], set()
        for number, path in enumerate(paths):
            rows, self.fingerprint = read_shard_rows(path)
            for i, row in enumerate(rows):
                seen.add(row["split"])
                if row["split"] in wanted:
                    self.rows.append(row)
                    self._places.append((number, i))
        if not self.rows:
            raise TasteError(f"no utterance in {folder} is in {sorted(wanted)}; the splits are {sorted(seen)}.")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def hours(self) -> float:
        return sum(row["seconds"] for row in self.rows) / 3600

    def tensor(self, index: int, name: str) -> torch.Tensor:
        """One stored tensor of one utterance; floats come back as float32."""
        file, key = self._file(index, name)
        tensor = file.get_tensor(key)
        return tensor.float() if tensor.is_floating_point() else tensor

    def _lazy(self, index: int, name: str):
        """The same, but only the slice that is asked for is read, in its stored type."""
        file, key = self._file(index, name)
        return file.get_slice(key)

    def _file(self, index: int, name: str):
        number, i = self._places[index]
        if number not in self._open:
            self._open[number] = safe_open(str(self.paths[number]), "pt")
        return self._open[number], f"{i}.{name}"

    def text_and_units(self, indices: Sequence[int], values: str | None) -> Batch:
        """What the tokenizer stages read. values: the stored encoder layer for V, e.g. "hidden_2"; None = no audio."""
        ids, lengths = self._ragged(indices, "token_ids")
        pointers = [self.tensor(i, "pointer") for i in indices]
        batch = Batch(
            ids=tuple(self.rows[i]["id"] for i in indices),
            token_ids=ids.long(),
            word_ids=self._ragged(indices, "word_ids")[0].long(),
            token_lengths=lengths,
            pointer=pad_sequence(pointers, batch_first=True).long() if all(map(len, pointers)) else None,
            **self._units(indices),
        )
        if values is None:
            return batch
        last, frame_lengths = self._ragged(indices, "last")
        prosody = torch.full((*batch.token_ids.shape, 4), torch.nan)
        for row, i in enumerate(indices):
            table = self.tensor(i, "prosody")  # (W, 4)
            if len(table):
                words = batch.word_ids[row, : batch.token_lengths[row]]
                first = torch.cat((words.new_ones(1), words.diff())).bool()
                prosody[row, : len(words)][first] = table
        values = self._ragged(indices, values)[0]
        return replace(batch, last=last, values=values, frame_lengths=frame_lengths, prosody=prosody)

    def units_and_mel(self, indices: Sequence[int]) -> Batch:
        """What the flow reads."""
        mels = [self.tensor(i, "mel").T for i in indices]  # (F, M)
        lengths = torch.tensor([len(mel) for mel in mels])
        mel = pad_sequence(mels, batch_first=True).transpose(1, 2)  # (B, M, F)
        sounds = pad_sequence([self._sounds(i) for i in indices], batch_first=True)  # (B, U)
        return Batch(mel=mel, mel_lengths=lengths, sounds=sounds, **self._units(indices))

    def _sounds(self, index: int) -> torch.Tensor:
        """The speech sound of every unit of one utterance, 0 where the features have no word times: (U,)."""
        pointer = self.tensor(index, "pointer").long()
        if not len(pointer):
            return torch.zeros(self.rows[index]["n_units"], dtype=torch.long)
        return torch.tensor(read_aloud(split_words(self.rows[index]["text"]))[0])[pointer]

    def segments(
        self, indices: Sequence[int], n_frames: int, generator: torch.Generator, stretch: float = 1.0
    ) -> Batch:
        """What the vocoder reads: n_frames mel frames from a random place of each utterance, with F0 and waveform.

        stretch: each segment is played up to this factor faster or slower, which shifts its pitch and formants. An
        utterance that is too short for that is played less fast. Raises TasteError when it is too short anyway.
        """
        mels, f0s, wavs, starts = [], [], [], []
        for i in indices:
            draw = float(torch.rand((), generator=generator)) * 2 - 1
            most = 100 * self.rows[i]["n_mels"] // n_frames  # what a short utterance has enough frames for
            percent = min(round(100 * stretch**draw), max(100, most))
            length = -(-n_frames * percent // 100)  # mel frames before the shift
            places = self.rows[i]["n_mels"] - length + 1
            if places < 1:
                raise TasteError(
                    f"{self.rows[i]['id']} is shorter than a segment of {length} mel frames; leave it out."
                )
            start = int(torch.randint(places, (1,), generator=generator))
            end = start + length
            wav = self._lazy(i, "wav")[start * 256 : end * 256].float() / 32767
            f0 = self._lazy(i, "f0")[start:end].float()
            if percent == 100:
                mel = self._lazy(i, "mel")[:, start:end].float()
            else:
                wav = torchaudio.functional.resample(wav, percent, 100)[: n_frames * 256]
                mel = vocoder_mel(wav)
                f0 = f0[torch.arange(n_frames) * percent // 100] * percent / 100
            mels, f0s, wavs, starts = [*mels, mel], [*f0s, f0], [*wavs, wav], [*starts, start]
        return Batch(mel=torch.stack(mels), f0=torch.stack(f0s), wav=torch.stack(wavs), starts=torch.tensor(starts))

    def _units(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        units, lengths = self._ragged(indices, "units")
        speaker = torch.stack([self.tensor(i, "speaker_embedding") for i in indices])
        return {"units": units.long(), "unit_lengths": lengths, "speaker_embedding": speaker}

    def _ragged(self, indices: Sequence[int], name: str) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [self.tensor(i, name) for i in indices]
        return pad_sequence(parts, batch_first=True), torch.tensor([len(part) for part in parts])


class BatchOrder:
    """An endless, reproducible sequence of micro-batches of bounded padded size."""

    def __init__(self, lengths: Sequence[int], budget: int, seed: int):
        """lengths: positions of every utterance. budget: padded positions in one micro-batch (at least one row)."""
        self.lengths, self.budget, self.seed = np.asarray(lengths), budget, seed
        self._epochs: list[list[np.ndarray]] = []
        self._ends: list[int] = []  # micro-batches up to and including each epoch

    def __getitem__(self, number: int) -> list[int]:
        """Indices of the utterances in micro-batch `number`, 0 or more."""
        while not self._ends or self._ends[-1] <= number:
            self._epochs.append(self._epoch(len(self._epochs)))
            self._ends.append((self._ends[-1] if self._ends else 0) + len(self._epochs[-1]))
        epoch = int(np.searchsorted(self._ends, number, side="right"))
        before = self._ends[epoch - 1] if epoch else 0
        return self._epochs[epoch][number - before].tolist()

    @cached_property
    def per_epoch(self) -> int:
        """Micro-batches of the first epoch."""
        return len(self._epoch(0))

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        """Shuffle, sort by length within pools, cut, and shuffle the batches."""
        generator = np.random.default_rng((self.seed, epoch))
        order = generator.permutation(len(self.lengths))
        batches = []
        for start in range(0, len(order), POOL):
            pool = order[start : start + POOL]
            batches += self._cut(pool[np.argsort(self.lengths[pool], kind="stable")])
        return [batches[i] for i in generator.permutation(len(batches))]

    def _cut(self, pool: np.ndarray) -> list[np.ndarray]:
        batches, first = [], 0
        for i in range(1, len(pool) + 1):
            full = i < len(pool) and (i - first + 1) * self.lengths[pool[i]] > self.budget
            if full or i == len(pool):
                batches.append(pool[first:i])
                first = i
        return batches
