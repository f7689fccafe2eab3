"""Sizes of every component as frozen dataclasses, and the three presets tiny, mini and paper.

The same code runs at every size: `tiny()` for tests, `mini()` for a laptop (Whisper tiny.en), `paper()` for the
released checkpoint (distil-large-v3). Defaults are the paper's values, so `RVQConfig()` is the paper's quantizer.
"""

from dataclasses import dataclass, field
from math import prod

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
class UnitDecoderConfig:
    """Language model over speech units, conditioned on text and TASTE (paper section 3.1, speech decoder)."""

    vocab_size: int = 51866  # text tokens, the aggregator's vocabulary
    n_units: int = 4096  # speech units; the end of speech is the extra class n_units
    d_text: int = 512  # width of the text embedding table
    pronounced: bool = False  # one position per speech sound instead of one per text token, and a pointer to it
    d_taste: int = 1280  # width of the TASTE embeddings, RVQConfig.d_model
    d_audio: int = 512  # width they are projected to before their encoder
    d_speaker: int = 192
    d_model: int = 1024
    n_heads: int = 8
    d_ff: int = 2048
    n_text_layers: int = 3
    n_audio_layers: int = 2
    n_layers: int = 7  # layers of the unit language model
    dropout: float = 0.1
    position_dropout: float = 0.1
    unit_dropout: float = 0.0  # at most this share of an utterance's past units is hidden in training
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class FlowConfig:
    """Conditional flow matching from units to mel (the flow of CosyVoice-300M)."""

    n_units: int = 4096
    n_mels: int = 80
    d_speaker: int = 192
    d_model: int = 512  # unit encoder
    n_heads: int = 8
    d_ff: int = 2048
    n_layers: int = 6
    dropout: float = 0.1
    channels: int = 256  # U-Net
    n_unet_heads: int = 8
    head_dim: int = 64
    n_blocks: int = 4  # transformer blocks per U-Net stage
    n_mid_stages: int = 12
    mel_mean: float = 0.0  # the network sees (mel - mel_mean) / mel_std
    mel_std: float = 1.0
    prior_weight: float = 0.0  # of the loss that pulls mu towards the mel itself
    speaker_in_encoder: bool = False  # the unit encoder hears the speaker too, so that mu can be the speaker's mel
    pronounced: bool = False  # the unit encoder can also hear which speech sound each unit belongs to
    sound_dropout: float = 0.25  # share of training samples that hear no sounds
    start_at_mu: bool = False  # paths begin at mu + noise_scale * noise instead of at noise
    noise_scale: float = 1.0
    condition_dropout: float = 0.2  # share of training samples that see no condition
    guidance: float = 0.7  # strength of classifier-free guidance
    n_timesteps: int = 10  # Euler steps
    second_order: bool = False  # steps of the second order, of which fewer do; see fast.py
    temperature: float = 1.0  # of the noise that sampling starts from; training always has all of it
    unit_rate: int = 50  # Hz
    sample_rate: int = 22050  # Hz
    hop: int = 256  # samples per mel frame

    def __post_init__(self):
        if self.channels % 8:
            raise TasteError(f"flow channels must be a multiple of 8 (group normalisation), got {self.channels}.")


@dataclass(frozen=True)
class VocoderConfig:
    """HiFT: harmonic source plus inverse-STFT HiFi-GAN (the vocoder of CosyVoice-300M)."""

    n_mels: int = 80
    sample_rate: int = 22050  # Hz
    channels: int = 512  # halved by every up-sampling stage
    upsample_rates: tuple[int, ...] = (8, 8)
    upsample_kernels: tuple[int, ...] = (16, 16)
    resblock_kernels: tuple[int, ...] = (3, 7, 11)
    source_kernels: tuple[int, ...] = (7, 11)  # one per up-sampling stage
    dilations: tuple[int, ...] = (1, 3, 5)
    n_fft: int = 16  # of the inverse STFT head
    istft_hop: int = 4
    n_harmonics: int = 9  # the fundamental and eight overtones
    f0_channels: int = 512
    mel_matches: int = 0  # times that the waveform is scaled to the mel spectrogram it was made from, see mel_match.py

    def __post_init__(self):
        stages = {len(self.upsample_rates), len(self.upsample_kernels), len(self.source_kernels)}
        if len(stages) > 1:
            raise TasteError("upsample_rates, upsample_kernels and source_kernels must have the same length.")

    @property
    def hop(self) -> int:
        """Samples per mel frame: all up-sampling rates times the hop of the inverse STFT."""
        return prod(self.upsample_rates) * self.istft_hop


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Adversaries of the vocoder, sized for small training. The paper trains none: it takes a published vocoder."""

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    period_channels: tuple[int, ...] = (16, 32, 64, 128)
    n_ffts: tuple[int, ...] = (512, 1024, 2048)
    spectral_channels: int = 16


@dataclass(frozen=True)
class LlamaSizes:
    """A text language model of the Llama family. Defaults: Llama-3.2-1B, the released backbone."""

    vocab_size: int = 128256
    d_model: int = 2048
    n_layers: int = 16
    n_heads: int = 32
    n_kv_heads: int = 8
    head_dim: int = 64
    d_ff: int = 8192
    n_positions: int = 131072
    norm_eps: float = 1e-5
    rope_theta: float = 500_000.0
    llama3_rope: bool = True  # stretch the slow rotations 32 times beyond 8192 positions, as Llama 3 does


@dataclass(frozen=True)
class TaslmConfig:
    """Joint language model over text and TASTE (paper section 3.2). Defaults are the released configuration.

    head: "embedding" (a Gaussian in codebook space), "token" (one classifier per codebook) or "token_soft" (the
    classifiers also regress the expected codebook vector).
    """

    name: str = "paper"
    llm: LlamaSizes = field(default_factory=LlamaSizes)
    rvq: RVQConfig = field(default_factory=RVQConfig)
    sos_id: int = 128000  # text token at position 0, never fused
    delay: int = 1  # words by which the speech side lags the text side; tokens when delay_level is "token"
    delay_level: str = "word"
    head: str = "embedding"
    lora_r: int = 64
    lora_alpha: int = 128
    lora_dropout: float = 0.05
    text_weight: float = 0.5
    taste_weight: float = 0.5
    text_kl_share: float = 0.9  # KL to the frozen text model against cross-entropy; used when its logits are given
    latent_kl_share: float = 0.5  # embedding head: KL against regression
    codebook_decay: float = 1.0  # token heads: weight decay**r of codebook r (the paper's first code: 0.52)
    latent_adds_std: bool = True  # embedding head in eval mode gives mean + std, as released; False: the mean
    bfloat16: bool = True  # the backbone; LoRA, fusion and head are always float32
    round_rope: bool = False  # round the RoPE frequencies to bfloat16, as the released model does by accident

    def __post_init__(self):
        if self.head not in ("embedding", "token", "token_soft"):
            raise TasteError(f"head must be 'embedding', 'token' or 'token_soft', got {self.head!r}.")
        if self.delay_level not in ("word", "token"):
            raise TasteError(f"delay_level must be 'word' or 'token', got {self.delay_level!r}.")
        if self.delay < 0:
            raise TasteError(f"delay must be 0 or more, got {self.delay}.")
        if not 0 <= self.sos_id < self.llm.vocab_size:
            raise TasteError(f"sos_id {self.sos_id} lies outside the vocabulary of {self.llm.vocab_size} tokens.")


@dataclass(frozen=True)
class TasteConfig:
    """All components of one TASTE tokenizer. Raises TasteError where neighbouring sizes do not fit."""

    name: str = "paper"
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    aggregator: AggregatorConfig = field(default_factory=AggregatorConfig)
    rvq: RVQConfig = field(default_factory=RVQConfig)
    unit_decoder: UnitDecoderConfig = field(default_factory=UnitDecoderConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    vocoder: VocoderConfig = field(default_factory=VocoderConfig)

    def __post_init__(self):
        widths = {self.encoder.d_model, self.aggregator.d_model, self.rvq.d_model}
        if len(widths) > 1:
            raise TasteError(f"encoder, aggregator and quantizer must have the same d_model, got {sorted(widths)}.")
        decoder, flow, vocoder = self.unit_decoder, self.flow, self.vocoder
        for what, left, right in (
            ("the quantizer's d_model and the unit decoder's d_taste", self.rvq.d_model, decoder.d_taste),
            ("the vocabularies of aggregator and unit decoder", self.aggregator.vocab_size, decoder.vocab_size),
            ("n_units of unit decoder and flow", decoder.n_units, flow.n_units),
            ("d_speaker of unit decoder and flow", decoder.d_speaker, flow.d_speaker),
            ("n_mels of flow and vocoder", flow.n_mels, vocoder.n_mels),
            ("hop of flow and vocoder", flow.hop, vocoder.hop),
            ("sample_rate of flow and vocoder", flow.sample_rate, vocoder.sample_rate),
        ):
            if left != right:
                raise TasteError(f"{what} must be equal, got {left} and {right}.")


def paper() -> TasteConfig:
    """Sizes of the released checkpoint: distil-large-v3, V after layer 6 of 32."""
    return TasteConfig()


# fmt: off
def mini() -> TasteConfig:
    """Sizes that run everywhere: Whisper tiny.en, V after layer 2 of 4, all four decoder layers."""
    return TasteConfig(
        name="mini",
        encoder=EncoderConfig(n_mels=80, d_model=384, n_layers=4, n_heads=6, d_ff=1536, shallow_layer=2),
        aggregator=AggregatorConfig(
            vocab_size=51864, d_model=384, n_layers=4, n_heads=6, d_ff=1536,
            prefix=(50257, 50362),  # <|startoftranscript|><|notimestamps|>
        ),
        rvq=RVQConfig(d_model=384),
        unit_decoder=UnitDecoderConfig(
            vocab_size=51864, n_units=2048, d_text=64, pronounced=True, d_taste=384, d_audio=256, d_speaker=256,
            d_model=256, n_heads=4, d_ff=512, n_text_layers=1, n_audio_layers=1, n_layers=4, unit_dropout=0.5,
        ),
        flow=FlowConfig(
            n_units=2048, d_speaker=256, d_model=192, n_heads=4, d_ff=768, n_layers=3,
            channels=112, n_unet_heads=4, head_dim=32, n_blocks=1, n_mid_stages=2, mel_mean=-6.0, mel_std=2.5,
            prior_weight=1.0, speaker_in_encoder=True, pronounced=True, start_at_mu=True, noise_scale=0.3,
            guidance=0.0, n_timesteps=4, temperature=0.0,
        ),
        vocoder=VocoderConfig(channels=192, f0_channels=128, mel_matches=1),
    )


def tiny() -> TasteConfig:
    """Random weights of a few thousand numbers, for tests."""
    return TasteConfig(
        name="tiny",
        encoder=EncoderConfig(n_mels=8, d_model=32, n_layers=4, n_heads=4, d_ff=64, n_positions=50, shallow_layer=2),
        aggregator=AggregatorConfig(
            vocab_size=100, d_model=32, n_layers=2, n_heads=4, d_ff=64, n_positions=64, prefix=(90, 91),
        ),
        rvq=RVQConfig(d_model=32, codebook_dim=16, codebook_size=24, kmeans_iters=10),
        unit_decoder=UnitDecoderConfig(
            vocab_size=100, n_units=64, d_text=24, d_taste=32, d_audio=24, d_speaker=12,
            d_model=32, n_heads=4, d_ff=48, n_text_layers=2, n_audio_layers=2, n_layers=2,
        ),
        flow=FlowConfig(
            n_units=64, d_speaker=12, d_model=24, n_heads=4, d_ff=48, n_layers=2,
            channels=16, n_unet_heads=2, head_dim=8, n_blocks=1, n_mid_stages=2,
        ),
        vocoder=VocoderConfig(channels=32, f0_channels=24),
    )


PRESETS = {"tiny": tiny, "mini": mini, "paper": paper}


def taslm_paper() -> TaslmConfig:
    """Llama-3.2-1B with the embedding head, the released model; the token variant only changes `head`."""
    return TaslmConfig()


def taslm_mini() -> TaslmConfig:
    """SmolLM2-135M, in float32 because it also trains and runs on a CPU."""
    return TaslmConfig(
        name="mini",
        llm=LlamaSizes(
            vocab_size=49152, d_model=576, n_layers=30, n_heads=9, n_kv_heads=3, d_ff=1536, n_positions=8192,
            rope_theta=100_000.0, llama3_rope=False,
        ),
        rvq=mini().rvq,
        sos_id=1,  # <|im_start|>
        lora_r=8, lora_alpha=16, lora_dropout=0.0,  # both adapters together stay under 15 MB
        latent_adds_std=False, bfloat16=False,
    )


def taslm_tiny() -> TaslmConfig:
    """Random weights of a few thousand numbers, for tests."""
    return TaslmConfig(
        name="tiny",
        llm=LlamaSizes(
            vocab_size=120, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=64, n_positions=256,
            rope_theta=10_000.0, llama3_rope=False,
        ),
        rvq=tiny().rvq, sos_id=100, lora_r=4, lora_alpha=8, bfloat16=False,
    )
# fmt: on


TASLM_PRESETS = {"tiny": taslm_tiny, "mini": taslm_mini, "paper": taslm_paper}
