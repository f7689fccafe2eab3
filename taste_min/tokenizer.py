"""TASTE as one object: speech -> text + one row of R codes per word -> speech (paper section 3.1, figure 2).

Axes: S samples, N text tokens, W words, T encoder frames, D width, R quantiser layer, U units.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from . import assets, config
from .aggregator import Aggregator, AggregatorOutput
from .asr import SpeechRecognizer
from .audio import SAMPLE_RATE, SILENCE, WINDOW_SECONDS, check_audio, log_mel, split_windows
from .encoder import EncoderOutput, WhisperEncoder
from .errors import TasteError
from .export import TEXT_ONLY, load_parts
from .flow import Flow
from .quantizer import ResidualVQ
from .released_files import is_original
from .speaker import GE2E, CAMPPlus, load_speaker_encoder
from .speech_decoder import Decoded, SpeechDecoder
from .text import TokenizedText, split_words, tokenize
from .tokens import TasteTokens
from .unit_decoder import UnitDecoder
from .units import UNIT_SAMPLES, MiniUnits
from .vocoder import Vocoder

__all__ = ["CHECKPOINTS", "Decoded", "Taste", "TasteTokens", "TowerOutput"]
CHECKPOINTS = Path(__file__).parent / "checkpoints"


@dataclass(frozen=True)
class TowerOutput:
    """Every stage of one window, for looking inside: see EncoderOutput, AggregatorOutput and TokenizedText."""

    text: TokenizedText
    encoder: EncoderOutput
    aggregator: AggregatorOutput


class Taste(SpeechDecoder):
    """The whole path: recogniser, encoder, aggregator, quantizer; then unit decoder, flow, vocoder.

    A part that was not given is None, and a method that needs it raises TasteError. `decode` and its relatives are in
    speech_decoder.py.
    """

    def __init__(
        self,
        config: config.TasteConfig,
        encoder: WhisperEncoder,
        aggregator: Aggregator,
        quantizer: ResidualVQ | None,
        tokenizer: Tokenizer,
        recognizer: SpeechRecognizer | None = None,
        speaker_encoder: GE2E | CAMPPlus | None = None,
        units: MiniUnits | None = None,
        unit_decoder: UnitDecoder | None = None,
        text_only_decoder: UnitDecoder | None = None,
        flow: Flow | None = None,
        vocoder: Vocoder | None = None,
        trim_keys: bool = False,
    ):
        """trim_keys: the aggregator attends only to frames that the recording reaches into, as it does in training;
        without it also to the padding of the window of 30 s, as Whisper does. Decoders: see SpeechDecoder.
        """
        super().__init__(config, tokenizer, unit_decoder, text_only_decoder, flow, vocoder)
        self.encoder, self.aggregator, self.quantizer, self.trim_keys = encoder, aggregator, quantizer, trim_keys
        self.recognizer, self.speaker_encoder, self.units = recognizer, speaker_encoder, units

    @classmethod
    def from_pretrained(cls, name: str | Path = "mini") -> "Taste":
        """Load "mini", or a folder of parts that `taste-min train` exported; fetches the frozen networks on first use.

        Parts without a file are None; an aggregator without one is Whisper's decoder, untrained. Original checkpoints
        load too, see released.py: a folder with config.json, a trainer's .pt file, or a hub id such as
        "MediaTek-Research/Llama-1B-TASTE-V0". Raises TasteError for unknown names and for damaged or foreign files.
        """
        if is_original(name):
            from .released import load_taste

            return load_taste(name)
        folder = CHECKPOINTS / name if name == "mini" else Path(name)
        if not folder.is_dir():
            raise TasteError(f"there is no pretrained model called '{name}'; use 'mini' or a folder of exported parts.")
        if not any(folder.glob("*.safetensors")):
            raise TasteError(f"{folder} holds no parts of a model (*.safetensors); name the export of a training run.")
        preset, assets_folder = config.mini(), assets.fetch("whisper-tiny-en")
        recognizer = SpeechRecognizer.from_folder(assets_folder)
        whisper = recognizer.whisper.model
        encoder = WhisperEncoder(preset.encoder)
        encoder.encoder.load_state_dict(whisper.encoder.state_dict())
        parts = load_parts(folder, preset, whisper.decoder, recognizer.tokenizer)
        trained, units = "aggregator" in parts, None
        if (folder / "units.safetensors").is_file():
            units = MiniUnits.load(folder / "units.safetensors")
            if units.n_units != preset.flow.n_units:
                raise TasteError(
                    f"{folder} has {units.n_units} units, the model {preset.flow.n_units}; export the units again."
                )
        return cls(
            preset,
            encoder,
            parts["aggregator"] if trained else Aggregator(preset.aggregator).load_whisper_decoder(whisper.decoder),
            parts.get("quantizer"),
            recognizer.tokenizer,
            recognizer,
            load_speaker_encoder(),
            units,
            parts.get("unit_decoder"),
            parts.get(TEXT_ONLY),
            parts.get("flow"),
            parts.get("vocoder"),
            trim_keys=trained,
        ).eval()

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
        frames = torch.tensor([-(-len(wav) // UNIT_SAMPLES)], device=self.device) if self.trim_keys else None
        keys, values = (x.to(self.aggregator.layer_norm.weight.dtype) for x in (states.last, states.shallow))
        output = self.aggregator(token_ids, word_ids, lengths, keys, values, need_attention=True, key_lengths=frames)
        return TowerOutput(words, states, output)

    @torch.no_grad()
    def encode(self, wav: torch.Tensor, text: str | None = None, quantize: bool = True) -> TasteTokens:
        """Turn `wav (S,)` at 16 kHz into TASTE tokens.

        text: the transcript; when None it is recognised. A given text needs a recording of at most 30 s; longer
        recordings are transcribed and encoded window by window, see `encode_windows`.
        quantize: with False the embeddings stay continuous (the paper's condition without quantizer); the codes are
        the quantizer's all the same, or -1 in a model that has none.
        Raises TasteError for unusable audio, or when there are no words.
        """
        wav = check_audio(wav)
        return self.encode_windows((wav[start:end] for start, end in split_windows(wav)), text, quantize)

    def encode_windows(
        self, windows: Iterable[torch.Tensor], text: str | None = None, quantize: bool = True
    ) -> TasteTokens:
        """`encode` for a long recording that comes in consecutive windows, see `audio.read_windows`.

        Only one window is in memory at a time. Each is heard by itself, so words should not cross a cut; the time of
        windows without words counts. Raises TasteError when there are no words, or for a text and several windows.
        """
        if quantize:
            self.part("quantizer")
        parts = []
        for number, window in enumerate(windows):
            if text is not None and number:
                raise TasteError(
                    f"a transcript can be given for at most {WINDOW_SECONDS} s of speech; cut the recording."
                )
            parts.append(self._encode_window(window, text, quantize))
        if not any(part.words for part in parts):
            raise TasteError("there are no words; give a transcript, or a recording in which somebody speaks.")
        return TasteTokens.concatenate(parts)

    @torch.no_grad()
    def _encode_window(self, wav: torch.Tensor, text: str | None, quantize: bool) -> TasteTokens:
        """Tokens of one window (S,); of one without words there are none, and its speaker is zero."""
        if text is not None:
            words = self.recognizer.locate(wav, split_words(text))
        else:
            words = self.recognizer.transcribe(wav).words if wav.abs().max() >= SILENCE else []
        text, seconds = " ".join(word.text for word in words), len(wav) / SAMPLE_RATE
        if not words:
            width, dim = self.config.rvq.d_model, self.speaker_encoder.dim
            codes = torch.zeros(0, self.config.rvq.n_quantizers, dtype=torch.int64)
            return TasteTokens("", [], codes, torch.zeros(0, width), 0, seconds, torch.zeros(dim))
        tower = self.look_inside(wav, text)
        ids = tower.text.word_ids
        first = torch.cat([torch.tensor([True]), ids[1:] != ids[:-1]])  # (N,), first token of each word
        vectors = tower.aggregator.pooled[:, first]  # (1, W, D)
        codes, quantized = self._quantized(vectors)
        embeddings = (quantized if quantize else vectors)[0].float().cpu()  # (W, D)
        speaker = self.speaker_encoder.speaker_embedding(wav).cpu()
        return TasteTokens(text, words, codes[0].cpu(), embeddings, len(ids), seconds, speaker)

    def _quantized(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Word vectors (1, W, D) -> codes (1, W, R) and quantized vectors (1, W, D); codes -1 without a quantizer."""
        if self.quantizer is None:
            codes = torch.full((*vectors.shape[:2], self.config.rvq.n_quantizers), -1, device=vectors.device)
            return codes, vectors
        quantized = self.quantizer(vectors)
        return quantized.codes, quantized.quantized

    def unit_ids(self, wav: torch.Tensor) -> torch.Tensor:
        """Speech units of `wav (S,)` at 16 kHz: (U,) int64, 50 per second. Fetches the units' own network once."""
        return self.part("units").encode(wav)
