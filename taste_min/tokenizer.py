"""TASTE as one object: speech -> text + one row of R codes per word (paper section 3.1, figure 2).

Axes: S samples, N text tokens, W words, T encoder frames, D width, R quantiser layer.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn

from . import assets, config
from .aggregator import Aggregator, AggregatorOutput
from .asr import SpeechRecognizer
from .audio import SAMPLE_RATE, SILENCE, WINDOW_SECONDS, check_audio, log_mel, split_windows
from .bitrate import Bitrate, bitrate
from .encoder import EncoderOutput, WhisperEncoder
from .errors import TasteError
from .quantizer import ResidualVQ
from .text import TokenizedText, Word, split_words, tokenize

CHECKPOINTS = Path(__file__).parent / "checkpoints"


@dataclass(frozen=True)
class TasteTokens:
    """What TASTE keeps of an utterance.

    text: transcript. words: W words with start and end in seconds. codes: (W, R) int64.
    embeddings: (W, D) float32, the quantized vectors that the unit decoder reads.
    n_text_tokens: Whisper tokens of the transcript. seconds: length of the recording.
    """

    text: str
    words: list[Word]
    codes: torch.Tensor
    embeddings: torch.Tensor
    n_text_tokens: int
    seconds: float

    def bitrate(self, codebook_size: int = 512, vocab_size: int = 51866) -> Bitrate:
        """Bit/s of this utterance, silences included (paper section 4.1)."""
        return bitrate(
            len(self.words) / self.seconds,
            self.n_text_tokens / self.seconds,
            self.codes.shape[1],
            codebook_size,
            vocab_size,
        )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; text and word times go into its metadata as JSON."""
        meta = {"text": self.text, "words": [asdict(word) for word in self.words]}
        meta |= {"n_text_tokens": self.n_text_tokens, "seconds": self.seconds}
        tensors = {"codes": self.codes, "embeddings": self.embeddings}
        save_file(tensors, str(path), metadata={"taste_tokens": json.dumps(meta)})

    @classmethod
    def load(cls, path: str | Path) -> "TasteTokens":
        """Read what `save` wrote. Raises TasteError when it is something else."""
        try:
            with safe_open(str(path), "pt") as file:
                meta = json.loads(file.metadata()["taste_tokens"])
                words = [Word(**word) for word in meta.pop("words")]
                return cls(
                    words=words, codes=file.get_tensor("codes"), embeddings=file.get_tensor("embeddings"), **meta
                )
        except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise TasteError(f"{path} is not a file of TASTE tokens; make one with `taste-min encode`.") from error


@dataclass(frozen=True)
class TowerOutput:
    """Every stage of one window, for looking inside: see EncoderOutput, AggregatorOutput and TokenizedText."""

    text: TokenizedText
    encoder: EncoderOutput
    aggregator: AggregatorOutput


class Taste(nn.Module):
    """Encoder + aggregator + quantizer + speech recogniser."""

    def __init__(
        self,
        config: config.TasteConfig,
        encoder: WhisperEncoder,
        aggregator: Aggregator,
        quantizer: ResidualVQ,
        tokenizer: Tokenizer,
        recognizer: SpeechRecognizer | None = None,
    ):
        super().__init__()
        self.config, self.tokenizer, self.recognizer = config, tokenizer, recognizer
        self.encoder, self.aggregator, self.quantizer = encoder, aggregator, quantizer

    @classmethod
    def from_pretrained(cls, name: str = "mini") -> "Taste":
        """Load a preset; fetches its assets on first use. Raises TasteError for unknown names."""
        if name != "mini":
            raise TasteError(f"there is no pretrained model called {name!r} yet; use 'mini'.")
        preset, folder = config.mini(), assets.fetch("whisper-tiny-en")
        recognizer = SpeechRecognizer.from_folder(folder)
        whisper = recognizer.whisper
        encoder = WhisperEncoder(preset.encoder)
        encoder.encoder.load_state_dict(whisper.model.encoder.state_dict())
        aggregator = Aggregator(preset.aggregator).load_whisper_decoder(whisper.model.decoder)
        quantizer = ResidualVQ(preset.rvq)
        quantizer.load_state_dict(load_file(CHECKPOINTS / name / "quantizer.safetensors"))
        return cls(preset, encoder, aggregator, quantizer, recognizer.tokenizer, recognizer).eval()

    @property
    def device(self) -> torch.device:
        return self.aggregator.embed_tokens.weight.device

    @torch.no_grad()
    def look_inside(self, wav: torch.Tensor, text: str, all_layers: bool = False) -> TowerOutput:
        """Run encoder and aggregator on `wav (S,)`, at most 30 s, and keep every intermediate tensor (batch of one).

        With `all_layers` the encoder keeps all hidden states. The aggregator keeps its attention maps.
        """
        words = tokenize(self.tokenizer, split_words(text))
        mel = log_mel(wav.to(self.device), self.config.encoder.n_mels)[None]  # (1, M, 3000)
        states = self.encoder(mel, all_layers)
        token_ids, word_ids = words.token_ids[None].to(self.device), words.word_ids[None].to(self.device)
        lengths = torch.tensor([token_ids.shape[1]], device=self.device)
        output = self.aggregator(token_ids, word_ids, lengths, states.last, states.shallow, need_attention=True)
        return TowerOutput(words, states, output)

    @torch.no_grad()
    def encode(self, wav: torch.Tensor, text: str | None = None) -> TasteTokens:
        """Turn `wav (S,)` at 16 kHz into TASTE tokens.

        text: the transcript; when None it is recognised. A given text needs a recording of at most 30 s; longer
        recordings are transcribed and encoded window by window.
        Raises TasteError for unusable audio, or when there are no words.
        """
        wav = check_audio(wav)
        windows = split_windows(wav)
        if text is not None and len(windows) > 1:
            raise TasteError(f"a transcript can be given for at most {WINDOW_SECONDS} s of speech; cut the recording.")
        words, codes, embeddings, n_tokens = [], [], [], 0
        for start, end in windows:
            part, offset = wav[start:end], start / SAMPLE_RATE
            if text is None:
                heard = self.recognizer.transcribe(part).words if part.abs().max() >= SILENCE else []
            else:
                heard = self.recognizer.locate(part, split_words(text))
            if not heard:
                continue
            tower = self.look_inside(part, " ".join(word.text for word in heard))
            quantized = self.quantizer(tower.aggregator.pooled)
            ids = tower.text.word_ids
            first = torch.cat([torch.tensor([True]), ids[1:] != ids[:-1]])  # (N,), first token of each word
            codes.append(quantized.codes[0, first].cpu())  # (W, R)
            embeddings.append(quantized.quantized[0, first].cpu())  # (W, D)
            n_tokens += len(ids)
            words += [Word(word.text, offset + word.start, offset + word.end) for word in heard]
        if not words:
            raise TasteError("there are no words; give a transcript, or a recording in which somebody speaks.")
        joined = " ".join(word.text for word in words)
        return TasteTokens(joined, words, torch.cat(codes), torch.cat(embeddings), n_tokens, len(wav) / SAMPLE_RATE)
