"""The training stages and their settings, as data: what is learnt, from which stage it starts, how long and how fast.

Paper: Adam, lr 1.6e-4, warm-up 5,000 steps, 160 s of audio per GPU and batch, five epochs on 40,000 h. The mini preset
sees an hour or two of speech on two CPU cores, hence smaller batches, a larger rate and a cosine to the end.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from .config import DiscriminatorConfig, TasteConfig
from .objectives import TokenizerObjective
from .objectives_taslm import taslm_objective, unit_lm_objective
from .objectives_wave import FlowObjective, VocoderObjective


@dataclass(frozen=True)
class TrainConfig:
    """How one stage is trained. A step averages the gradients of `micro_batches`, shared out over the processes."""

    steps: int
    lr: float  # peak of the learning rate
    warmup: int  # steps of linear warm-up; then a cosine to lr * final_lr
    budget: int  # padded positions in a micro-batch: tokens + units, mel frames, or segments
    micro_batches: int = 1
    final_lr: float = 0.02
    factors: tuple[tuple[str, float], ...] = ()  # (start of a parameter name, factor on its learning rate)
    clip: float = 1.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.98)
    ema_decay: float = 0.0  # moving average of the weights, used for evaluation and export; 0 = none
    bfloat16: bool = True
    log_every: int = 10
    eval_every: int = 250
    eval_batches: int = 24
    save_every: int = 100
    prepare_batches: int = 48


@dataclass(frozen=True)
class Stage:
    """name, the stages whose weights it starts from (none = from scratch), its objective, its settings per preset."""

    name: str
    after: tuple[str, ...]
    objective: Callable[[TasteConfig], nn.Module]
    settings: dict[str, TrainConfig]


_FINE_TUNED = (("aggregator.", 0.7),)  # it starts from Whisper's decoder, so it learns slower than the rest
_UNITS_FROM = {"tiny": 2, "mini": 600}  # step of the stage without quantizer
_TINY = {"log_every": 1, "eval_every": 4, "eval_batches": 2, "save_every": 2, "prepare_batches": 4, "bfloat16": False}
_TINY_TOKENIZER = TrainConfig(8, 1e-3, 2, 400, micro_batches=2, **_TINY)
_SEGMENT = {"tiny": 8, "mini": 32}  # mel frames
_PITCH_SEGMENT = {"tiny": 10, "mini": 72}
_ADVERSARY_FROM = {"tiny": 3, "mini": 2600}  # step
_UNET_FROM = {"tiny": 2, "mini": 1200}  # step
_ADVERSARIES = {
    "tiny": DiscriminatorConfig(periods=(2, 3), period_channels=(4, 8), n_ffts=(128, 256), spectral_channels=4),
    "mini": DiscriminatorConfig(),
}


def _vocoder(config: TasteConfig, after_flow: bool) -> VocoderObjective:
    name, adversary_from = config.name, 0 if after_flow else _ADVERSARY_FROM[config.name]
    frames = _SEGMENT[name], _PITCH_SEGMENT[name]
    return VocoderObjective(config, _ADVERSARIES[name], *frames, adversary_from, after_flow)


# The paper: AdamW, lr 1e-5, batch 768, a cosine; three epochs (embedding) or eight (token).
_LANGUAGE = {
    "tiny": TrainConfig(8, 1e-2, 2, 60, micro_batches=2, **_TINY),
    "mini": TrainConfig(
        400,
        1e-3,
        10,
        160,
        factors=(("model.head.", 2.0), ("model.fuse.", 0.3)),
        log_every=5,
        eval_every=50,
        eval_batches=4,
        save_every=10,
    ),
}


def _language(name: str, head: str, **what: bool) -> Stage:
    return Stage(name, (), lambda config: taslm_objective(name, head, config.name, **what), _LANGUAGE)


STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            "text_only",
            (),
            lambda config: TokenizerObjective(config, audio=False, quantize=False),
            {"tiny": _TINY_TOKENIZER, "mini": TrainConfig(800, 1e-3, 100, 3000)},
        ),
        Stage(
            "no_vq",
            ("text_only",),
            lambda config: TokenizerObjective(config, audio=True, quantize=False, units_from=_UNITS_FROM[config.name]),
            {"tiny": _TINY_TOKENIZER, "mini": TrainConfig(2400, 8e-4, 200, 3000, factors=_FINE_TUNED)},
        ),
        Stage(
            "vq",
            ("no_vq",),
            lambda config: TokenizerObjective(config, audio=True, quantize=True),
            {"tiny": _TINY_TOKENIZER, "mini": TrainConfig(1500, 6e-4, 50, 3000, factors=_FINE_TUNED)},
        ),
        Stage(
            "flow",
            (),
            lambda config: FlowObjective(config, _UNET_FROM[config.name]),
            {
                "tiny": TrainConfig(8, 1e-3, 2, 300, **_TINY),
                "mini": TrainConfig(9000, 1e-3, 300, 4000, ema_decay=0.999),
            },
        ),
        Stage(
            "vocoder",
            (),
            lambda config: _vocoder(config, after_flow=False),
            {
                "tiny": TrainConfig(6, 1e-3, 2, 4, **_TINY),
                "mini": TrainConfig(6000, 5e-4, 200, 8, clip=10.0, betas=(0.8, 0.99), ema_decay=0.999),
            },
        ),
        Stage(
            "vocoder_flow",
            ("vocoder", "flow"),
            lambda config: _vocoder(config, after_flow=True),
            {
                "tiny": TrainConfig(6, 1e-3, 2, 4, **_TINY),
                "mini": TrainConfig(3000, 3e-4, 50, 8, clip=10.0, betas=(0.8, 0.99), ema_decay=0.999),
            },
        ),
        # The language models read what `taste-min extract` wrote. The last four are what they are compared with.
        _language("taslm_token", "token"),
        _language("taslm_embedding", "embedding"),
        Stage("unit_lm", (), lambda config: unit_lm_objective("unit_lm", config.name), _LANGUAGE),
        _language("taslm_text", "token", speech=False),
        _language("taslm_codes", "token", text=False),
        _language("taslm_no_kl", "token", kl=False),
    )
}
