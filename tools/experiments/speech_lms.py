"""The language models that the paper compares itself with: TWIST, Spirit LM and Spirit LM Expressive (section 4.2).

Each says how unexpected a recording is, as the joint model does, so that all are judged alike (tools/score_sets.py).
Units come from HuBERT at 25 Hz: a folder with a transformers checkpoint (config.json and weights) and `kmeans.npy`,
centres (K, D), or `quantizer.pt`, the linear quantizer of Spirit LM (its L11_quantizer_500.pt).

    TWIST       OPT or Llama over units without repeats; token = config.offset + unit
    Spirit LM   Llama with [Text], [Speech], [Hu0], [Hu1], ... in its vocabulary; text and speech follow their marks
    Expressive  and pitch [Pi..] at 12.5 Hz without repeats, style [St..] at 1 Hz, all in the order of their times

**Never run on the published weights.** They cannot be had here, so the tests use random weights in the same formats;
sizes, names and rules follow the published code. Known differences: HuBERT must be in transformers' form (TWIST and
Spirit LM ship it in fairseq's), and pitch is found by SwiftF0, not by FCPE.

Axes: S samples, U units, N tokens, D width of HuBERT, K clusters, F pitch frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    HubertModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Wav2Vec2ForSequenceClassification,
)

from taste_min.audio import SAMPLE_RATE
from taste_min.errors import TasteError
from taste_min.pitch import tracker

HUBERT_LAYER = 11
UNIT_RATE, PITCH_RATE, STYLE_RATE = 24.99, 12.5, 1.0  # per second, as Spirit LM orders its tokens
PITCH_STEP = 80  # samples between the pitch values that Spirit LM quantizes
STYLE_FRAMES = 50  # frames of wav2vec 2.0 that share a style
PITCH_MODEL = "encoder.level_blocks.0.model"


class Scorer(Protocol):
    """loss: how unexpected a recording (S,) at 16 kHz is; lower is more expected. text: its transcript, if known."""

    def loss(self, wav: torch.Tensor, text: str | None = None) -> float: ...


class LinearQuantizer(nn.Sequential):
    """Spirit LM's classifier of units, trained with CTC: a blank frame has the unit of the frame before."""

    def __init__(self, weights: dict[str, torch.Tensor]):
        layers = [nn.Linear(*weights[f"{i}.weight"].shape[::-1]) for i in (0, 2, 4)]
        super().__init__(layers[0], nn.LeakyReLU(), layers[1], nn.LeakyReLU(), layers[2])
        self.load_state_dict(weights)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(U, D) -> (U,)."""
        scores = super().forward(hidden)
        units, blank = scores.argmax(-1), scores.shape[-1] - 1
        if (units == blank).all():
            raise TasteError("the unit quantizer heard nothing but blanks; is this recording speech?")
        while (units == blank).any():
            units = torch.where(units == blank, units.roll(1), units)
        return units


@dataclass
class HubertUnits:
    """Discrete units of a recording."""

    hubert: HubertModel
    quantize: Callable[[torch.Tensor], torch.Tensor]
    n_units: int

    @classmethod
    def load(cls, folder: str | Path) -> "HubertUnits":
        """Read a folder as above. Raises TasteError when it lacks a quantizer."""
        folder = Path(folder)
        hubert = HubertModel.from_pretrained(_folder(folder)).eval()
        if (folder / "kmeans.npy").is_file():
            centres = torch.from_numpy(np.load(folder / "kmeans.npy")).float()  # (K, D)
            return cls(hubert, lambda hidden: torch.cdist(hidden, centres).argmin(-1), len(centres))
        if (folder / "quantizer.pt").is_file():
            weights = torch.load(folder / "quantizer.pt", map_location="cpu", weights_only=True)["model_weight"]
            quantizer = LinearQuantizer(weights).eval()
            return cls(hubert, quantizer, quantizer[-1].out_features - 1)
        raise TasteError(f"{folder} needs kmeans.npy (cluster centres) or quantizer.pt beside HuBERT.")

    @torch.no_grad()
    def __call__(self, wav: torch.Tensor) -> torch.Tensor:
        """wav (S,) -> (U,), with repeats."""
        padded = F.pad(wav, (40, 40))[None]  # so that the number of frames is the length over the stride
        hidden = self.hubert(padded, output_hidden_states=True).hidden_states
        return self.quantize(hidden[min(HUBERT_LAYER, len(hidden) - 1)][0])


@dataclass
class Twist:
    """A text model that was trained on to read nothing but units."""

    lm: PreTrainedModel
    units: HubertUnits

    @classmethod
    def load(cls, folder: str | Path, units: HubertUnits) -> "Twist":
        """folder: checkpoint, or hub id. Raises TasteError when its vocabulary has no place for the units."""
        lm = AutoModelForCausalLM.from_pretrained(folder).eval()
        offset = getattr(lm.config, "offset", None)
        if offset is None or offset + units.n_units > lm.config.vocab_size:
            raise TasteError(f"{folder} is no TWIST model of {units.n_units} units: see offset in its config.json.")
        return cls(lm, units)

    def loss(self, wav: torch.Tensor, text: str | None = None) -> float:
        """Of all units but the first; the text is not used."""
        return mean_nats(self.lm, self.lm.config.offset + self.units(wav).unique_consecutive(), given=1)


class PitchTokens:
    """The encoder and the codebook of Spirit LM's quantizer of pitch (vqvae_f0_quantizer: config.yaml, model.pt)."""

    def __init__(self, weights: dict[str, torch.Tensor], config: dict):
        sizes = config["encoder_params"]
        self.weights, self.codebook = weights, weights["vq.level_blocks.0.k"]
        (self.down,), (self.stride,) = sizes["downs_t"], sizes["strides_t"]
        self.depth, self.growth = sizes["depth"], sizes["dilation_growth_rate"]
        self.centred = "norm_" in config["features"] or config.get("speaker_norm", False)

    @classmethod
    def load(cls, folder: str | Path) -> "PitchTokens":
        import yaml

        folder = _folder(folder)
        weights = torch.load(folder / "model.pt", map_location="cpu", weights_only=True)["model"]
        return cls(weights, yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))

    def _conv(self, x: torch.Tensor, name: str, stride: int = 1, padding: int = 0, dilation: int = 1) -> torch.Tensor:
        weight, bias = (self.weights[f"{PITCH_MODEL}.{name}.{part}"] for part in ("weight", "bias"))
        return F.conv1d(x, weight, bias, stride, padding, dilation)

    @torch.no_grad()
    def __call__(self, wav: torch.Tensor) -> torch.Tensor:
        """wav (S,) -> tokens at 12.5 Hz."""
        n_frames = len(wav) // PITCH_STEP + 1
        found = tracker().detect(wav.numpy(), SAMPLE_RATE, 50.0, 1100.0)
        times = np.arange(n_frames) * PITCH_STEP / SAMPLE_RATE
        voiced = found.confidence >= 0.5
        f0 = torch.zeros(n_frames)
        if voiced.any():  # between voiced frames it is interpolated
            f0 = torch.from_numpy(np.interp(times, found.timestamps[voiced], found.pitch_hz[voiced])).float()
        has_voice = torch.from_numpy(np.interp(times, found.timestamps, voiced.astype(float)) >= 0.5).float()
        if self.centred and has_voice.any():
            f0 = torch.where(f0 != 0, f0 - f0[has_voice > 0].mean(), f0)
        return self.quantize(torch.stack([f0, has_voice])[None])

    def quantize(self, x: torch.Tensor) -> torch.Tensor:
        """x: (1, 2, F), pitch and whether there is a voice -> nearest codebook entries, one per stride**down frames."""
        for i in range(self.down):
            x = self._conv(x, f"{i}.0", self.stride, self.stride // 2)
            for j in range(self.depth):
                wide = self.growth**j
                inner = self._conv(x.relu(), f"{i}.1.model.{j}.model.1", padding=wide, dilation=wide)
                x = x + self._conv(inner.relu(), f"{i}.1.model.{j}.model.3")
        return torch.cdist(self._conv(x, str(self.down), padding=1)[0].T, self.codebook).argmin(-1)


class StyleTokens:
    """Spirit LM's style encoder (style_encoder_w2v2): wav2vec 2.0 with a classifier over every second."""

    def __init__(self, folder: str | Path):
        self.model = Wav2Vec2ForSequenceClassification.from_pretrained(_folder(folder)).eval()

    @torch.no_grad()
    def __call__(self, wav: torch.Tensor) -> torch.Tensor:
        """wav (S,) -> one token per second."""
        wav = (wav - wav.mean()) / (wav.var(correction=0) + 1e-7).sqrt()
        hidden = self.model.projector(self.model.wav2vec2(wav[None]).last_hidden_state[0])
        return torch.stack([self.model.classifier(part.mean(0)).argmax() for part in hidden.split(STYLE_FRAMES)])


@dataclass
class SpiritLm:
    """A text model that reads text and speech in one sequence; with pitch and style tokens it is the Expressive one."""

    lm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    units: HubertUnits
    pitch: Callable[[torch.Tensor], torch.Tensor] | None = None
    style: Callable[[torch.Tensor], torch.Tensor] | None = None

    @classmethod
    def load(cls, folder: str | Path, units: HubertUnits, pitch=None, style=None) -> "SpiritLm":
        """folder: checkpoint, or hub id. Raises TasteError when its vocabulary lacks the tokens."""
        model = cls(AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder), units)
        model.pitch, model.style = pitch, style
        model.ids(["[Text]", "[Speech]", "[Hu0]", f"[Hu{units.n_units - 1}]"] + ["[Pi0]", "[St0]"] * bool(pitch))
        return model

    def ids(self, tokens: Sequence[str]) -> list[int]:
        found = self.tokenizer.convert_tokens_to_ids(list(tokens))
        for token, number in zip(tokens, found, strict=True):
            if number is None or number == self.tokenizer.unk_token_id:
                raise TasteError(f"the vocabulary of this model has no {token}; name a Spirit LM checkpoint.")
        return found

    def speech_tokens(self, wav: torch.Tensor) -> list[str]:
        """Names of the tokens of a recording, in the order of their times: style, pitch, unit where these are equal."""
        streams = [("St", STYLE_RATE, self.style), ("Pi", PITCH_RATE, self.pitch), ("Hu", UNIT_RATE, self.units)]
        placed = []
        for name, rate, tokenize in streams:
            values = [] if tokenize is None else tokenize(wav).tolist()
            for i, value in enumerate(values):
                if name == "St" or i == 0 or value != values[i - 1]:
                    placed.append((i / rate, f"[{name}{value}]"))
        return [token for _, token in sorted(placed, key=lambda place: place[0])]

    def sequence(self, *parts: str | torch.Tensor) -> torch.Tensor:
        """Token ids (N,) of written and spoken parts that follow each other, each after its mark."""
        ids = [self.tokenizer.bos_token_id]
        for part in parts:
            if isinstance(part, str):
                ids += self.ids(["[Text]"]) + self.tokenizer.encode(part, add_special_tokens=False)
            else:
                ids += self.ids(["[Speech]", *self.speech_tokens(part)])
        return torch.tensor(ids)

    def loss(self, wav: torch.Tensor, text: str | None = None) -> float:
        """Of the speech after its mark; the text is not used."""
        return mean_nats(self.lm, self.sequence(wav), given=2)


@torch.no_grad()
def mean_nats(lm: PreTrainedModel, ids: torch.Tensor, given: int) -> float:
    """Mean loss of the tokens ids (N,) after the first `given`. Raises TasteError when none is left."""
    if len(ids) <= given:
        raise TasteError("the recording is too short for this model.")
    logits = lm(input_ids=ids[None]).logits[0, given - 1 : -1].float()
    return float(F.cross_entropy(logits, ids[given:]))


def _folder(folder: str | Path) -> Path:
    if not (Path(folder) / "config.json").is_file() and not (Path(folder) / "config.yaml").is_file():
        raise TasteError(f"{folder} holds no model (config.json or config.yaml); name its folder.")
    return Path(folder)
