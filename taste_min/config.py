"""Sizes of every component as frozen dataclasses, and the three presets tiny, mini and paper.

The same code runs at every size: `tiny()` for tests, `mini()` for a laptop (Whisper tiny.en), `paper()` for the
released checkpoint (distil-large-v3). Defaults are the paper's values, so `RVQConfig()` is the paper's quantizer.
"""

from dataclasses import dataclass, field

from .errors import TasteError


@dataclass(frozen=True)
class EncoderConfig:
    """Frozen Whisper encoder (paper section 3.1.1). `shallow_layer` = layers applied before the tap: 6."""

    n_mels: int = 128
    d_model: int = 1280
    n_layers: int = 32
    n_heads: int = 20
    d_ff: int = 5120
    n_positions: int = 1500  # encoder frames in one window of 30 s
    shallow_layer: int = 6

    def __post_init__(self):
        if not 0 <= self.shallow_layer <= self.n_layers:
            raise TasteError(f"shallow_layer must lie in 0..{self.n_layers}, got {self.shallow_layer}.")


@dataclass(frozen=True)
class AggregatorConfig:
    """Whisper decoder whose cross-attention takes separate keys and values (paper section 3.1.2)."""

    vocab_size: int = 51866
    d_model: int = 1280
    n_layers: int = 2
    n_heads: int = 20
    d_ff: int = 5120
    n_positions: int = 448
    prefix: tuple[int, ...] = (50258, 50259, 50360, 50364)  # <|startoftranscript|><|en|><|transcribe|><|notimestamps|>


@dataclass(frozen=True)
class RVQConfig:
    """Residual vector quantizer (paper section 3.1.3)."""

    d_model: int = 1280
    codebook_dim: int = 256
    n_quantizers: int = 4  # R
    codebook_size: int = 512  # K
    decay: float = 0.99
    kmeans_iters: int = 100
    quantizer_dropout: bool = True
    sum_straight_through: bool = True  # gradient to the input is R times the upstream gradient, as in the original


@dataclass(frozen=True)
class TasteConfig:
    """All components of one TASTE tokenizer. Raises TasteError where neighbouring sizes do not fit."""

    name: str = "paper"
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    aggregator: AggregatorConfig = field(default_factory=AggregatorConfig)
    rvq: RVQConfig = field(default_factory=RVQConfig)

    def __post_init__(self):
        widths = {self.encoder.d_model, self.aggregator.d_model, self.rvq.d_model}
        if len(widths) > 1:
            raise TasteError(f"encoder, aggregator and quantizer must have the same d_model, got {sorted(widths)}.")


def paper() -> TasteConfig:
    """Sizes of the released checkpoint: distil-large-v3, V after layer 6 of 32."""
    return TasteConfig()


def mini() -> TasteConfig:
    """Sizes that run everywhere: Whisper tiny.en, V after layer 2 of 4, all four decoder layers."""
    return TasteConfig(
        name="mini",
        encoder=EncoderConfig(n_mels=80, d_model=384, n_layers=4, n_heads=6, d_ff=1536, shallow_layer=2),
        aggregator=AggregatorConfig(
            vocab_size=51864,
            d_model=384,
            n_layers=4,
            n_heads=6,
            d_ff=1536,
            prefix=(50257, 50362),  # <|startoftranscript|><|notimestamps|>
        ),
        rvq=RVQConfig(d_model=384),
    )


def tiny() -> TasteConfig:
    """Random weights of a few thousand numbers, for tests."""
    return TasteConfig(
        name="tiny",
        encoder=EncoderConfig(n_mels=8, d_model=32, n_layers=4, n_heads=4, d_ff=64, n_positions=50, shallow_layer=2),
        aggregator=AggregatorConfig(
            vocab_size=100, d_model=32, n_layers=2, n_heads=4, d_ff=64, n_positions=64, prefix=(90, 91)
        ),
        rvq=RVQConfig(d_model=32, codebook_dim=16, codebook_size=24, kmeans_iters=10),
    )


PRESETS = {"tiny": tiny, "mini": mini, "paper": paper}
