"""A whole Taste of random weights at tiny size, with a recogniser that always hears the same words."""

from dataclasses import replace

import torch
from tokenizers import Tokenizer, decoders, models

from taste_min.aggregator import Aggregator
from taste_min.asr import Transcript
from taste_min.audio import SAMPLE_RATE
from taste_min.config import TasteConfig, tiny
from taste_min.encoder import WhisperEncoder
from taste_min.flow import Flow
from taste_min.quantizer import ResidualVQ
from taste_min.speaker import GE2E
from taste_min.text import Word
from taste_min.tokenizer import Taste
from taste_min.tokens import TasteTokens
from taste_min.unit_decoder import UnitDecoder
from taste_min.units import MiniUnits, cepstra
from taste_min.vocoder import Vocoder

TEXT = "you like some tea"


def tiny_config() -> TasteConfig:
    """The tiny preset, for windows of 30 s and speakers of GE2E's 256 numbers; one head and two steps are enough."""
    config = tiny()
    return replace(
        config,
        encoder=replace(config.encoder, n_positions=1500, n_heads=1),
        unit_decoder=replace(config.unit_decoder, d_speaker=256),
        flow=replace(config.flow, d_speaker=256, n_timesteps=2),
    )


class Recognizer:
    """Hears TEXT in every recording; its words share the time evenly."""

    def transcribe(self, wav: torch.Tensor) -> Transcript:
        return Transcript(TEXT, self.locate(wav, TEXT.split()))

    def locate(self, wav: torch.Tensor, words: list[str]) -> list[Word]:
        step = len(wav) / SAMPLE_RATE / len(words) if words else 0
        return [Word(word, i * step, (i + 1) * step) for i, word in enumerate(words)]


def speaker_encoder() -> GE2E:
    """GE2E with one recurrent layer for three, a quarter of the work."""
    model = GE2E()
    with torch.random.fork_rng():
        model.lstm = torch.nn.LSTM(model.n_mels, model.dim, batch_first=True)
    return model


def letters() -> Tokenizer:
    """One token per letter."""
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(" abcdefghijklmnopqrstuvwxyz.,'?")}, []))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def tiny_taste(seed: int = 0, config: TasteConfig | None = None) -> Taste:
    torch.manual_seed(seed)
    config = config or tiny_config()
    quantizer = ResidualVQ(config.rvq)
    for layer in quantizer.layers:
        layer.embed.normal_()
        layer.initted.fill_(1)
    taste = Taste(
        config,
        WhisperEncoder(config.encoder),
        Aggregator(config.aggregator),
        quantizer,
        letters(),
        Recognizer(),
        speaker_encoder(),
        MiniUnits(cepstra, torch.zeros(39), torch.eye(39), torch.randn(config.flow.n_units, 39)),
        UnitDecoder(config.unit_decoder),
        UnitDecoder(config.unit_decoder),
        Flow(config.flow),
        Vocoder(config.vocoder),
    ).eval()
    for decoder in (taste.unit_decoder, taste.text_only_decoder):
        decoder.llm_decoder.bias.data[-1] = 3.0  # speech of random weights ends soon after it may
    if config.unit_decoder.pronounced:
        for decoder in (taste.unit_decoder, taste.text_only_decoder):
            decoder.reader.read_vocabulary(taste.tokenizer)
    return taste


def speech(seconds: float = 1.0, seed: int = 0) -> torch.Tensor:
    """Noise with a buzz: (S,) at 16 kHz."""
    n = int(seconds * SAMPLE_RATE)
    noise = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    return 0.1 * noise + 0.3 * torch.sin(torch.arange(n) * (0.05 + 0.01 * seed))


def tokens_of(text: str, seconds: float = 1.0, seed: int = 0) -> TasteTokens:
    """Random tokens of the tiny preset; the words share the time evenly."""
    g = torch.Generator().manual_seed(seed)
    words = text.split()
    step = seconds / len(words)
    return TasteTokens(
        text,
        [Word(word, i * step, (i + 1) * step) for i, word in enumerate(words)],
        torch.randint(24, (len(words), 4), generator=g),
        torch.randn(len(words), 32, generator=g),
        2 * len(words),
        seconds,
        torch.nn.functional.normalize(torch.rand(256, generator=g), dim=0),
    )
