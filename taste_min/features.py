"""Frozen features, computed once: what every training stage reads instead of audio (paper section 4.1).

The Whisper encoder, the unit tokenizer and the speaker encoder never change, so their outputs are stored: one
safetensors file per 32 utterances. A file appears whole or not at all, so that a run that was killed continues where
it stopped, and several processes share the work by taking every n-th file.

Axes: S samples, N text tokens, T encoder frames, U units, F mel frames, D width.
"""

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torchaudio
from tokenizers import Tokenizer
from tqdm import tqdm

from .audio import HOP, MEL_HOP, SAMPLE_RATE, VOCODER_RATE, WINDOW_SECONDS, log_mel, read_audio, vocoder_mel
from .encoder import WhisperEncoder
from .errors import TasteError
from .frame_labels import align_phones
from .manifest import Utterance
from .phones import read_aloud
from .pitch import mel_pitch
from .pointer import sound_path
from .repro import bfloat16_is_fast
from .shards import SHARD, fits, write_shard
from .speaker import GE2E, load_speaker_encoder
from .text import Word, load_tokenizer, split_words, tokenize
from .units import MiniUnits

TAKE = "-take"  # in the name of a recording that is stored more than once


@dataclass(frozen=True)
class FeatureExtractor:
    """The frozen networks, and which encoder layers to keep besides the last one."""

    encoder: WhisperEncoder
    tokenizer: Tokenizer
    units: MiniUnits
    speaker: GE2E
    layers: tuple[int, ...] = (2,)

    @classmethod
    def mini(cls, units: MiniUnits, layers: Sequence[int] | None = None) -> "FeatureExtractor":
        """The networks of the mini preset. layers: encoder layers to keep, default the preset's tap."""
        from .assets import fetch
        from .config import mini
        from .ct2 import load_whisper

        config, folder = mini().encoder, fetch("whisper-tiny-en")
        encoder = WhisperEncoder(config)
        encoder.encoder.load_state_dict(load_whisper(folder).model.encoder.state_dict())
        layers = tuple(layers or (config.shallow_layer,))
        return cls(encoder, load_tokenizer(folder), units, load_speaker_encoder(), layers)

    @torch.no_grad()
    def extract(self, wav: torch.Tensor, text: str, times: Sequence[tuple] = ()) -> dict[str, torch.Tensor]:
        """wav: (S,) at 22.05 kHz, at most 30 s; text: its transcript; times: (word, start, end) or nothing. Returns

        token_ids, word_ids (N,); last, hidden_<l> (T, D) float16 with T = ceil(50 * seconds); units (U,);
        speaker_embedding (256,); mel (80, F), f0 (F,) in Hz, wav (256 F,) int16; prosody (W, 4), see `word_prosody`;
        pointer (U,), see `pointer.sound_path`, empty without times.
        Raises TasteError for unusable audio, no words, or more than 30 s.
        """
        if len(wav) > WINDOW_SECONDS * VOCODER_RATE:
            raise TasteError(
                f"a recording lasts {len(wav) / VOCODER_RATE:.1f} s; cut the corpus at {WINDOW_SECONDS} s."
            )
        words = tokenize(self.tokenizer, split_words(text))
        low = torchaudio.functional.resample(wav, VOCODER_RATE, SAMPLE_RATE)
        # Faster on CPUs with bfloat16 units, for a small change of the states.
        # dev: bf16-features
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_fast("cpu")):
            states = self.encoder(log_mel(low, self.encoder.config.n_mels)[None], all_layers=True)
        # Only the frames that the recording reaches into. The rest of the 30 s window is padding, which
        # draws most of the attention of the untrained aggregator's deeper layers (chapter 2).
        # dev: trimmed-keys
        n_frames = -(-len(low) // (2 * HOP))
        mel, f0 = vocoder_mel(wav), mel_pitch(wav)  # (80, F), (F,)
        features = {
            "token_ids": words.token_ids.int(),
            "word_ids": words.word_ids.int(),
            "last": states.last[0, :n_frames],
            **{f"hidden_{layer}": states.hidden_states[layer][0, :n_frames] for layer in self.layers},
            "units": self.units.encode(low).short(),
            "speaker_embedding": self.speaker.speaker_embedding(low),
            "mel": mel,
            "f0": f0,
            "wav": (wav[: mel.shape[1] * 256].clamp(-1, 1) * 32767).short(),
            "prosody": word_prosody(mel, f0, times),
        }
        if len(times) not in (0, len(words.words)):
            raise TasteError(f"there are {len(times)} word times for the {len(words.words)} words of: {text}")
        due = sound_path(words.words, sound_times(low, times), len(features["units"])) if times else torch.zeros(0)
        features["pointer"] = due.short()
        return {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in features.items()}

    @property
    def fingerprint(self) -> str:
        """Changes with the units, the layers and what is stored, so that no cache of others is taken for this one."""
        return hashlib.sha256(
            self.units.centroids.numpy().tobytes() + f"{self.layers} prosody shifted swift-f0 pointer".encode()
        ).hexdigest()[:16]


def sound_times(wav: torch.Tensor, times: Sequence[tuple]) -> list[list[tuple[float, float]]]:
    """Start and end of the sounds of every word of a recording (S,) at 16 kHz, W lists.

    Where the aligner finds no sounds, only the word as a whole is known.
    """
    sounds = align_phones(wav.numpy(), " ".join(word for word, _, _ in times))
    if sounds is None:
        return [[(start, end)] for _, start, end in times]
    found = [[] for _ in times]
    for sound in sounds:
        found[sound.word].append((sound.start, sound.end))
    return found


def unit_path(wav: torch.Tensor, words: Sequence[Word], n_units: int) -> torch.Tensor:
    """Which sound of its text each unit of a recording (S,) at 16 kHz belongs to, see `pointer.sound_path`."""
    times = [(word.text, word.start, word.end) for word in words]
    return sound_path([word.text for word in words], sound_times(wav, times), n_units)


def unit_sounds(wav: torch.Tensor, words: Sequence[Word], n_units: int) -> torch.Tensor:
    """The speech sound of every unit of a recording (S,) at 16 kHz, as index in `phones.SYMBOLS`: (n_units,)."""
    return torch.tensor(read_aloud([word.text for word in words])[0])[unit_path(wav, words, n_units)]


def word_prosody(mel: torch.Tensor, f0: torch.Tensor, times: Sequence[tuple]) -> torch.Tensor:
    """How each word is said: log of its seconds, pitch, loudness, log of the pause after it. (W, 4), NaN = unknown.

    mel: (80, F), f0: (F,) in Hz. Pitch: median log F0 of the voiced frames minus that of the utterance. Loudness: mean
    log-mel minus the mean over the words. A pause counts from 50 ms on; after the last word it is unknown.
    """
    voiced = f0 > 0
    middle = f0[voiced].log().median() if voiced.any() else torch.tensor(torch.nan)
    loudness = mel.mean(dim=0)  # (F,)
    rows, nexts = [], [start for _, start, _ in times[1:]] + [math.nan]
    for (_, start, end), following in zip(times, nexts, strict=True):
        first = min(int(start * VOCODER_RATE / MEL_HOP), mel.shape[1] - 1)
        last = max(first + 1, int(end * VOCODER_RATE / MEL_HOP))
        tones = f0[first:last][voiced[first:last]]
        pitch = tones.log().median() - middle if len(tones) >= 3 else torch.tensor(torch.nan)
        pause = math.log(max(following - end, 0.05)) if following == following else math.nan
        rows.append((math.log(max(end - start, 0.02)), float(pitch), float(loudness[first:last].mean()), pause))
    table = torch.tensor(rows).reshape(-1, 4)
    table[:, 2] -= table[:, 2].mean()
    return table


def with_takes(utterances: Sequence[Utterance], n: int) -> list[Utterance]:
    """The utterances, then every training recording n - 1 times more, under names of its own, the last one first."""
    again = [u for u in reversed(utterances) if u.split == "train"]
    return [*utterances, *(replace(u, id=f"{u.id}{TAKE}{take}") for take in range(2, n + 1) for u in again)]


def shift_of(utterance: Utterance) -> float:
    """How much faster and higher a training recording is played; 1 for half of them and for all held-out ones.

    Five synthetic voices are few. A shifted recording has other formants, another pitch and tempo: another speaker.
    The later takes of a recording are all shifted. None becomes longer than the encoder's window.
    """
    # dev: shifted-voices
    draw = random.Random(utterance.id)
    plain = draw.random() < 0.5 and TAKE not in utterance.id
    slowest = max(0.85, math.ceil(100 * (utterance.seconds + 0.001) / WINDOW_SECONDS) / 100)
    return 1.0 if utterance.split != "train" or plain else draw.uniform(slowest, 1.2)


def shifted(wav: torch.Tensor, times: Sequence[tuple], factor: float) -> tuple[torch.Tensor, list[tuple]]:
    """Play a recording (S,) `factor` times as fast, by resampling: (S / factor,), and its word times."""
    if factor == 1:
        return wav, list(times)
    wav = torchaudio.functional.resample(wav, round(100 * factor), 100)
    factor = round(100 * factor) / 100
    return wav, [(word, start / factor, end / factor) for word, start, end in times]


def build(
    utterances: Sequence[Utterance],
    extractor: FeatureExtractor,
    folder: Path,
    worker: int = 0,
    n_workers: int = 1,
    progress: bool = True,
) -> int:
    """Write the features of all utterances to `folder`; files that are already there and fit are kept.

    worker, n_workers: this process writes file i where i % n_workers == worker. Returns the number of files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    shards = range(0, len(utterances), SHARD)
    for number in tqdm(range(worker, len(shards), n_workers), desc="features", unit="file", disable=not progress):
        part = utterances[number * SHARD : (number + 1) * SHARD]
        path = folder / f"features-{number:05d}.safetensors"
        if path.is_file() and fits(path, part, extractor.fingerprint):
            continue
        features = []
        for u in part:
            wav, times = shifted(read_audio(u.audio, VOCODER_RATE), u.words, shift_of(u))
            features.append(extractor.extract(wav, u.text, times))
        rows = [_row(u, f) for u, f in zip(part, features, strict=True)]
        write_shard(path, rows, features, extractor.fingerprint)
        written += 1
    return written


def _row(utterance: Utterance, features: dict[str, torch.Tensor]) -> dict:
    """What the loader must know before it opens the tensors."""
    lengths = {
        "n_tokens": len(features["token_ids"]),
        "n_frames": len(features["last"]),
        "n_units": len(features["units"]),
        "n_mels": features["mel"].shape[1],
        "n_sounds": len(read_aloud(split_words(utterance.text))[0]),
    }
    names = ("id", "split", "speaker", "style", "text")
    seconds = features["mel"].shape[1] * MEL_HOP / VOCODER_RATE
    return {name: getattr(utterance, name) for name in names} | {"seconds": round(seconds, 3)} | lengths
