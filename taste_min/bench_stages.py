"""What `taste-min bench` times, stage by stage, at the sizes of a preset.

Weights are random unless the preset has trained ones: time does not depend on them, because lengths are fixed.

Axes: B = 1, S samples, N text tokens, W words, U units, D width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from .audio import SAMPLE_RATE, log_mel
from .config import PRESETS, TASLM_PRESETS, TaslmConfig, TasteConfig
from .export import MAKERS
from .generate import Prompt, generate
from .joint_sampler import JointSampling, SamplerTables
from .quantizer import ResidualVQ
from .repro import bfloat16_is_fast
from .taslm import Taslm
from .taslm_layout import collate
from .tokenizer import Taste
from .unit_decoder import Sampling

RANDOM = ("tiny", "paper")  # presets without weights of their own
WORDS_PER_SECOND, TOKENS_PER_WORD = 3, 1.3


@dataclass(frozen=True)
class Work:
    """One stage. tokens: how many positions it makes or reads. read: bytes of weights it must fetch from memory at
    least, for stages that do so at every token; 0 = its multiplications decide. spoken: it works on the speech."""

    name: str
    run: Callable[[], object]
    tokens: int
    read: int = 0
    spoken: bool = True


@dataclass(frozen=True)
class Sizes:
    """Lengths of everything for so many seconds of speech."""

    config: TasteConfig
    seconds: float
    device: torch.device

    @property
    def words(self) -> int:
        return max(1, round(WORDS_PER_SECOND * self.seconds))

    @property
    def tokens(self) -> int:
        return max(1, round(TOKENS_PER_WORD * self.words))

    @property
    def units(self) -> int:
        return round(self.config.flow.unit_rate * self.seconds)

    def text(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Token ids (1, N), word ids (1, N), lengths (1,)."""
        word_ids = torch.arange(self.tokens, device=self.device) * self.words // self.tokens
        return word_ids[None] + 40, word_ids[None], torch.tensor([self.tokens], device=self.device)

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, device=self.device)


def maker(preset: str) -> tuple[TasteConfig, Callable[[str], nn.Module]]:
    """The configuration of a preset or folder, and a function from the name of a part to the part, in eval mode."""
    if preset in RANDOM:
        config = PRESETS[preset]()
        return config, lambda name: MAKERS[name](config).eval()
    taste = Taste.from_pretrained(preset)
    return taste.config, taste.part


def weights_read(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def encoding(sizes: Sizes, make: Callable[[str], nn.Module]) -> Iterator[Work]:
    config, wav = sizes.config.encoder, torch.randn(round(sizes.seconds * SAMPLE_RATE))
    yield Work("log-mel", lambda: log_mel(wav, config.n_mels), round(100 * sizes.seconds))
    encoder, mel = make("encoder").to(sizes.device), sizes.random(1, config.n_mels, 2 * config.n_positions)
    yield Work("encoder", lambda: encoder(mel), config.n_positions)
    states = [sizes.random(1, config.n_positions, config.d_model) for _ in range(2)]
    aggregator, text = make("aggregator").to(sizes.device), sizes.text()
    yield Work("aggregator", lambda: aggregator(*text, *states), sizes.tokens)
    quantizer, x = make("quantizer").to(sizes.device), sizes.random(1, sizes.tokens, config.d_model)
    for layer in quantizer.layers:
        layer.initted.fill_(1)
    yield Work("quantizer", lambda: quantizer(x), sizes.tokens)


def decoding(sizes: Sizes, make: Callable[[str], nn.Module]) -> Iterator[Work]:
    config, n = sizes.config, sizes.units
    ids, _, lengths = sizes.text()
    speaker, length = sizes.random(1, config.unit_decoder.d_speaker), torch.tensor([n], device=sizes.device)
    taste, sampling = sizes.random(1, sizes.tokens, config.rvq.d_model), Sampling(min_units=n, max_units=n)
    decoder = make("unit_decoder").to(sizes.device)
    read = n * (weights_read(decoder.llm) + weights_read(decoder.llm_decoder))
    yield Work("unit decoder", lambda: decoder.generate(ids, lengths, speaker, taste, sampling=sampling), n, read)
    flow, units = make("flow").to(sizes.device), torch.arange(n, device=sizes.device)[None] % config.flow.n_units
    frames = int(flow.n_frames(length))
    yield Work("flow", lambda: flow.generate(units, length, speaker), frames)
    vocoder, mel = make("vocoder").to(sizes.device), sizes.random(1, config.vocoder.n_mels, frames)
    yield Work("vocoder", lambda: vocoder(mel), frames)


def joint(sizes: Sizes, config: TaslmConfig) -> Iterator[Work]:
    model = _taslm(config, sizes.device).eval()
    batch = _batch(model, sizes).to(sizes.device)
    yield Work("taslm step", lambda: model(batch), batch.mask.numel())
    n_vocabulary = config.llm.vocab_size
    every = torch.ones(n_vocabulary, dtype=torch.bool)
    tables = SamplerTables(every, ~every, ~every)
    read = weights_read(model.llm) - (config.llm.d_model * n_vocabulary * model.llm.lm_head.weight.element_size())
    read += weights_read(model.llm.lm_head)  # the input table is only looked up; it may be the output table
    for n in (sizes.tokens, 2 * sizes.tokens):

        def run(n=n):
            sampling = JointSampling(extra_words=n, max_tokens=n, top_p=0)
            return generate(model, [Prompt()], tables, sampling, script=[i % n_vocabulary for i in range(n)])

        yield Work(f"taslm generation of {n} tokens", run, n, read * n, spoken=False)


def training(sizes: Sizes, config: TaslmConfig) -> Iterator[Work]:
    """One update of the unit decoder and of the joint model, with and without gradient checkpointing."""
    if not sizes.config.unit_decoder.pronounced:
        ids, _, lengths = sizes.text()
        units = torch.arange(sizes.units, device=sizes.device)[None] % sizes.config.unit_decoder.n_units
        n_units, speaker = torch.tensor([sizes.units]), sizes.random(1, sizes.config.unit_decoder.d_speaker)
        taste, decoder = sizes.random(1, sizes.tokens, sizes.config.rvq.d_model), MAKERS["unit_decoder"](sizes.config)
        decoder.to(sizes.device).train()
        tokens = sizes.tokens + sizes.units + 3
        for kept, name in ((False, ""), (True, ", checkpointed")):
            decoder.llm.checkpointing = kept
            step = _update(decoder, lambda: decoder(ids, lengths, units, n_units, speaker, taste).loss)
            yield Work(f"train unit decoder{name}", step, tokens)
        del decoder, step
    model = _taslm(config, sizes.device).train()
    batch = _batch(model, sizes).to(sizes.device)
    step = _update(model, lambda: model(batch).loss)
    yield Work("train taslm", step, batch.mask.numel())
    model.llm.config.use_cache = False
    model.llm.gradient_checkpointing_enable({"use_reentrant": False})
    yield Work("train taslm, checkpointed", step, batch.mask.numel())


def _taslm(config: TaslmConfig, device: torch.device) -> Taslm:
    config = replace(config, bfloat16=config.bfloat16 and bfloat16_is_fast(device))
    quantizer = ResidualVQ(config.rvq)
    return Taslm(config, quantizer).to(device)


def _batch(model: Taslm, sizes: Sizes):
    word_ids = sizes.text()[1][0].cpu()
    codes = torch.zeros(sizes.words, model.config.rvq.n_quantizers, dtype=torch.long)
    return collate([model.layout(torch.arange(sizes.tokens), word_ids, codes)])


def _update(module: nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-6)

    def step():
        with torch.enable_grad():
            loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def stages(preset: str, seconds: float, device: torch.device, only: list[str]) -> Iterator[Work]:
    """The groups encoding, decoding, joint and training; each frees its weights before the next one begins."""
    config, make = maker(preset)
    sizes = Sizes(config, seconds, device)
    taslm = TASLM_PRESETS[preset if preset in TASLM_PRESETS else "mini"]()
    for name, group in GROUPS.items():
        if name in only:
            yield from group(sizes, make if name in ("encoding", "decoding") else taslm)


GROUPS = {"encoding": encoding, "decoding": decoding, "joint": joint, "training": training}
