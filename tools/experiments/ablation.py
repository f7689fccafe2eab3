"""The ablation of the paper's table 3 at small scale: only what the unit decoder hears of the speech varies.

Protocol, written before the runs (`Protocol`): a small unit decoder of the mini kind (sounds, pointer) learns from text
alone; from that state every condition, text-only included, gets the same further steps, batches, learning rates and
dropout. One seed sets first weights, order and noise together and is shared by all conditions, so they are compared in
pairs. Quantized conditions run without quantizer for the first 40 % of these steps, as in the paper. The loss is that
of the decoder, plus the commitment to the codebooks; the loss on prosody that trains the shipped weights is left out.
In training a random share (0 to 1) of an utterance's past units is hidden, so one model can be tested with the true
past, as in the paper, and with none. Learning rate and steps were set after a pilot with another seed, read on dev, by
what the machine could do, and the protocol changed three times on that ground; test is read once, at the end of each
run, and for all conditions with the same final protocol.

What is smaller than the paper, besides size: the aggregator is the shipped one, frozen, so "aggregator" and the
quantized conditions hear word vectors that were learnt beforehand, from the same training split. A pilot on dev with
one cross-attention of untrained Whisper in its place, of which only values and output are trained, gained next to
nothing over text. For the comparison of layers it stays, because there both sides must be trained alike: the
"attended" conditions. The condition "encoder" adds the encoder's frame to the decoder's input at the unit it belongs to
(both run at 50 Hz). Audio is added to text instead of mixed with learnt weights and starts from zero: all conditions
start as the same function. There is no quantizer dropout, because every rate has a model of its own. The 2,048 units of
the mini preset are joined to 256 classes (k-means of their centroids): half an hour of speech does not teach more from
scratch.

Axes: B batch, N text tokens, L sounds, T encoder frames, U units, D width, R codebooks, K codebook size, H heads.
"""

from dataclasses import dataclass, field

import torch
from torch import nn

from taste_min.config import RVQConfig, UnitDecoderConfig
from taste_min.objectives import STATE_DROPOUT, predict_units
from taste_min.quantizer import ResidualVQ, RVQOutput
from taste_min.unit_decoder import Prompts, UnitDecoder, UnitPrediction

from .ablation_data import LAYERS, Inputs, real


@dataclass(frozen=True)
class Condition:
    """source: what the decoder hears besides the text: "none", "frames" (the encoder, 50 Hz), or one vector per word,
    "words" (of the shipped aggregator) or "attended" (under the attention of untrained Whisper).

    values: stored encoder layer; "words" has the one that the aggregator was trained with. n_codebooks: R, 0 = none.
    """

    source: str = "words"
    values: str = "hidden_2"
    n_codebooks: int = 0
    codebook_size: int = 512


CONDITIONS = {
    "text_only": Condition("none"),
    "encoder": Condition("frames"),
    "aggregator": Condition(),
    "quantizer": Condition(n_codebooks=4),
    "encoder_last": Condition("frames", "last"),
    "attended": Condition("attended"),
    "attended_last": Condition("attended", "last"),
    "r1": Condition(n_codebooks=1),
    "r2": Condition(n_codebooks=2),
    "r8": Condition(n_codebooks=8),
    "k128": Condition(n_codebooks=4, codebook_size=128),
}
SWEEP = {f"attended_{i}": Condition("attended", layer) for i, layer in enumerate(LAYERS)} | {
    f"encoder_{i}": Condition("frames", layer) for i, layer in enumerate(LAYERS)
}


# dev: small-ablation
@dataclass(frozen=True)
class Protocol:
    """Everything that all conditions share."""

    decoder: UnitDecoderConfig = field(
        default_factory=lambda: UnitDecoderConfig(
            vocab_size=51864,
            n_units=256,
            d_text=32,
            pronounced=True,
            d_taste=384,
            d_audio=64,
            d_speaker=256,
            d_model=64,
            n_heads=1,
            d_ff=128,
            n_text_layers=1,
            n_audio_layers=1,
            n_layers=1,
            dropout=0.0,  # a few epochs
            position_dropout=0.0,
            unit_dropout=1.0,
        )
    )
    n_heads: int = 6  # of the aggregator
    codebook_dim: int = 128
    kmeans_iters: int = 5
    seconds: float = 3.0  # longest utterance
    budget: int = 1500  # padded positions (sounds and units) in a batch
    text_steps: int = 600  # shared start, text only
    steps: int = 160  # of every condition after it
    quantize_from: float = 0.4  # share of `steps` without quantizer
    lr: float = 4e-3
    warmup: int = 20
    final_lr: float = 0.02
    clip: float = 1.0
    eval_every: int = 80
    prepare_batches: int = 24  # for centring and codebooks
    first_units: int = 3  # counted as the beginning of a word, 20 ms each

    @property
    def quantizer_step(self) -> int:
        return round(self.quantize_from * self.steps)


class Sum(nn.Module):
    """audio + text."""

    def forward(self, audio: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return audio + text


@dataclass(frozen=True)
class FramePrompts(Prompts):
    """frames: (B, T, D), what the decoder hears while it predicts unit 0, 1, ..."""

    frames: torch.Tensor | None = None


class FrameDecoder(UnitDecoder):
    """The unit decoder with one audio vector per unit instead of one per word: it hears frame u when unit u is due."""

    def prompts(self, text_ids, text_lengths, speaker_embedding, taste_embeddings) -> FramePrompts:
        """taste_embeddings: (B, T, D), one vector per encoder frame; the prompt itself is text."""
        text = super().prompts(text_ids, text_lengths, speaker_embedding, None)
        frames = self.audio_embed_affine_layer(taste_embeddings)
        frames = self.audio_token_encoder(frames, torch.ones(frames.shape[:2], dtype=torch.bool))
        return FramePrompts(text.rows, text.sounds, text.fused, self.audio_token_encoder_affine_layer(frames))

    def _places(self, prompts, pointer, unit_lengths):
        place, steps = super()._places(prompts, pointer, unit_lengths)
        missing = max(0, place.shape[1] - prompts.frames.shape[1])
        heard = nn.functional.pad(prompts.frames, (0, 0, 0, missing))[:, : place.shape[1]]  # (B, U + 1, D)
        return place + nn.functional.linear(heard, self.place.affine.weight), steps


class WordValues(nn.Module):
    """Value and output projection of a cross-attention whose weights are fixed; both start as the identity."""

    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.v_proj, self.out_proj = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        for projection in (self.v_proj, self.out_proj):
            nn.init.eye_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Mean states per head (B, N, H, D) -> (B, N, D). Each head projects what it attends to to its own part."""
        weight = self.v_proj.weight.unflatten(0, (self.n_heads, -1))  # (H, D/H, D)
        mixed = torch.einsum("bnhd,hed->bnhe", states, weight).flatten(2)  # (B, N, D)
        return self.out_proj(mixed + self.v_proj.bias)


class Conditioned(nn.Module):
    """The unit decoder and what one condition puts in front of it."""

    def __init__(self, condition: Condition, protocol: Protocol, tokenizer):
        """tokenizer: what the text tokens spell."""
        super().__init__()
        self.condition, self.quantize = condition, False
        self.unit_decoder = (FrameDecoder if condition.source == "frames" else UnitDecoder)(protocol.decoder)
        self.unit_decoder.reader.read_vocabulary(tokenizer)
        self.unit_decoder.fusion = Sum()
        for weight in self.unit_decoder.audio_token_encoder_affine_layer.parameters():
            nn.init.zeros_(weight)
        width = protocol.decoder.d_taste
        if condition.source == "attended":
            self.aggregator = WordValues(width, protocol.n_heads)
        for name in ("mean", "centre"):  # of the encoder's frames, of the word vectors
            self.register_buffer(name, torch.zeros(width))
        for name in ("scale", "spread"):
            self.register_buffer(name, torch.ones(width))
        if condition.n_codebooks:
            self.quantizer = ResidualVQ(
                RVQConfig(
                    width,
                    protocol.codebook_dim,
                    condition.n_codebooks,
                    condition.codebook_size,
                    kmeans_iters=protocol.kmeans_iters,
                    quantizer_dropout=False,
                )
            )

    def heard(self, inputs: Inputs) -> torch.Tensor:
        """One vector per frame (B, T, D) or token (B, N, D), before the quantizer."""
        states = nn.functional.dropout((inputs.states - self.mean) / self.scale, STATE_DROPOUT, self.training)
        if self.condition.source == "attended":
            states = self.aggregator(states)
        return (states - self.centre) / self.spread

    def vectors(self, inputs: Inputs) -> tuple[torch.Tensor | None, RVQOutput | None]:
        """What the decoder hears: (B, T or N, D), None for text only; and the quantizer's account of it."""
        if self.condition.source == "none":
            return None, None
        z = self.heard(inputs)
        if not self.quantize:
            return z, None
        result = self.quantizer(z, real(inputs))
        return result.quantized, result

    def forward(self, inputs: Inputs, vectors: torch.Tensor | None) -> UnitPrediction:
        return predict_units(self.unit_decoder, inputs.batch, vectors)
