"""The systems of the reconstruction table: each takes recordings with their texts and says them again (section 4.2).

    original    the recording itself
    vocoder     its mel spectrogram -> vocoder
    topline     its speech units -> flow -> vocoder; the best that any unit decoder could reach
    topline-text    the same, but the flow also hears which sound of the text each unit belongs to, as it does from the
                mini unit decoder
    no-vq       text and continuous TASTE vectors -> unit decoder -> flow -> vocoder
    mini        text and TASTE codes -> the same; also the system for other weights (`--weights`)
    text-only   text alone, through the unit decoder that was trained without codes
    PEER        another codec, see peers.py: opus, codec2, encodec, mimi, dac, speechtokenizer
    FOLDER      files of another system, named like the id or the file of the recordings

An edit (a recording with a donor) swaps words in mini, no-vq and text-only. A folder holds edits that were made
elsewhere. The other systems have no words to swap and say the host, which is what no edit at all would give.

Axes: S samples.
"""

import glob
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import soundfile
import torch
import torchaudio

from .audio import SAMPLE_RATE, VOCODER_RATE, read_audio, vocoder_mel
from .bitrate import unit_bitrate
from .errors import TasteError
from .features import unit_sounds
from .metrics import word_times
from .peers import PEERS, Peer, load_peer
from .recordings import Recording
from .teacher import teacher_forced
from .text import split_words, tokenize

if TYPE_CHECKING:
    from .tokenizer import Taste
    from .tokens import TasteTokens

SYSTEMS = ("mini", "text-only", "no-vq", "topline", "topline-text", "vocoder", "original")


@dataclass(frozen=True)
class Spoken:
    """What a system said. wav: (S,) at `sample_rate`. bits: spent on the utterance, None where that means nothing.

    ended: False when the unit decoder was stopped at its length limit. teacher_forced: see teacher.py, where there is
    a unit decoder. codes: those that were spoken, R per word.
    """

    wav: torch.Tensor
    sample_rate: int
    bits: float | None = None
    ended: bool = True
    teacher_forced: dict[str, float] | None = None
    codes: list[list[int]] | None = None

    def at_16k(self) -> torch.Tensor:
        return torchaudio.functional.resample(self.wav, self.sample_rate, SAMPLE_RATE)


class System:
    """One of SYSTEMS, a peer, or a folder of files. `taste` is None where no weights of ours are needed."""

    def __init__(self, name: str, taste: "Taste | None" = None, peer: Peer | None = None):
        if name not in SYSTEMS and peer is None and not Path(name).is_dir():
            known = ", ".join([*SYSTEMS, *PEERS])
            raise TasteError(f"there is no system '{name}'; choose from {known}, or a folder of files.")
        self.name, self.taste, self.peer = name, taste, peer

    @classmethod
    def load(cls, name: str, weights: str | Path = "mini", device: str = "cpu") -> "System":
        """weights: "mini" or a folder of exported parts; for a peer its folder or hub id, "mini" for its usual one.

        Raises TasteError for unknown names and weights that cannot be had.
        """
        if name.split(":")[0] in PEERS:
            return cls(name, peer=load_peer(name, None if weights == "mini" else str(weights), device))
        system = cls(name)
        if name in SYSTEMS and name != "original":
            from .tokenizer import Taste

            system.taste = Taste.from_pretrained(weights).to(device)
        return system

    @torch.no_grad()
    def speak(self, recordings: Sequence[Recording], seed: int = 0) -> list[Spoken]:
        """Say every recording again; unit decoders work on all of them at once. Raises TasteError for missing parts."""
        if self.name == "original":
            return [Spoken(recording.load(), SAMPLE_RATE) for recording in recordings]
        if self.name == "vocoder":
            mels = (vocoder_mel(recording.load_for_vocoder()) for recording in recordings)
            return [Spoken(self.taste.vocode(mel, seed), VOCODER_RATE) for mel in mels]
        if self.name == "topline":
            return [self._topline(recording.load(), seed) for recording in recordings]
        if self.name == "topline-text":
            return [self._topline(recording.load(), seed, recording.text) for recording in recordings]
        if self.peer is not None:
            return [Spoken(*self.peer(recording.load())) for recording in recordings]
        if self.name not in SYSTEMS:
            return [self._from_file(recording) for recording in recordings]
        tokens, text_only = [self._tokens(recording) for recording in recordings], self.name == "text-only"
        decoded = self.taste.decode_many(tokens, text_only=text_only, seed=seed)
        spoken = []
        for recording, one, speech in zip(recordings, tokens, decoded, strict=True):
            known = None  # an edit has no true past
            if not recording.donor:
                known = teacher_forced(self.taste, recording.load(), one, text_only)
            codes = one.codes.tolist() if self.name == "mini" else None
            spoken.append(Spoken(speech.wav, speech.sample_rate, self._bits(one), speech.ended, known, codes))
        return spoken

    def _tokens(self, recording: Recording) -> "TasteTokens":
        """Tokens of a recording; those of an edit hold the donor's words where they were swapped."""
        wavs = [recording.load()] + ([recording.load_donor()] if recording.donor else [])
        host, *donor = (self.taste.encode(wav, recording.text, quantize=self.name == "mini") for wav in wavs)
        return host.swap(donor[0], list(recording.swapped)) if donor else host

    def _topline(self, wav: torch.Tensor, seed: int, text: str | None = None) -> Spoken:
        """With a text that the aligner cannot find in the recording, no sound is known."""
        units, config, sounds, n_tokens = self.taste.unit_ids(wav), self.taste.config, None, 0
        if text is not None:
            words, n_tokens = word_times(wav, text), len(tokenize(self.taste.tokenizer, split_words(text)).token_ids)
            sounds = None if words is None else unit_sounds(wav, words, len(units))
        speech = self.taste.synthesize(units, self.taste.speaker_encoder.speaker_embedding(wav), seed, sounds=sounds)
        bits = unit_bitrate(len(units), config.flow.n_units) + n_tokens * math.log2(config.aggregator.vocab_size)
        return Spoken(speech.wav, speech.sample_rate, bits)

    def _bits(self, tokens: "TasteTokens") -> float | None:
        """Text and codes; the speaker embedding is not counted (paper section 4.1)."""
        if self.name == "no-vq":
            return None  # real numbers
        config = self.taste.config
        rate = tokens.bitrate(config.rvq.codebook_size, config.aggregator.vocab_size)
        return tokens.seconds * (rate.text if self.name == "text-only" else rate.total)

    def _from_file(self, recording: Recording) -> Spoken:
        names = (recording.id.replace("/", "_"), recording.audio.stem)
        found = [file for name in names for file in sorted(Path(self.name).glob(f"{glob.escape(name)}.*"))]
        if not found:
            raise TasteError(f"there is no file {recording.audio.stem}.* in the folder {Path(self.name).name}.")
        rate = min(VOCODER_RATE, soundfile.info(str(found[0])).samplerate)
        return Spoken(read_audio(found[0], rate, convert=True), rate)
