"""Parts of the training loop: seeds, learning rate, AdamW, gradients of several processes, averaged weights."""

import math
import random

import torch
from accelerate import Accelerator
from torch import nn

from .stages import TrainConfig


def seed_of(*parts: int) -> int:
    """One seed from several numbers; neighbouring numbers give unrelated seeds."""
    return random.Random(repr(parts)).getrandbits(62)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then half a cosine from lr to lr * final_lr."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    low = config.lr * config.final_lr
    return low + (config.lr - low) * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters; the learning-rate factor of a group is kept as `factor`."""
    groups = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            factor = next((f for start, f in config.factors if name.startswith(start)), 1.0)
            groups.setdefault(factor, []).append(parameter)
    groups = [{"params": parameters, "factor": factor} for factor, parameters in groups.items()]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True)


def average_gradients(parameters: list[nn.Parameter], accelerator: Accelerator) -> None:
    """Replace every gradient by its mean over the processes, in one message."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if accelerator.num_processes == 1 or not gradients:
        return
    flat = accelerator.reduce(torch.cat([g.flatten() for g in gradients]), "mean")
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


class Swapped:
    """Within the context a module has other values for some parameters."""

    def __init__(self, module: nn.Module, values: dict[str, torch.Tensor]):
        self.parameters = {k: v for k, v in module.named_parameters() if k in values}
        self.values = values

    def __enter__(self):
        self.own = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._set(self.values)

    def __exit__(self, *_):
        self._set(self.own)

    @torch.no_grad()
    def _set(self, values: dict[str, torch.Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])
