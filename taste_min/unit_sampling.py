"""How speech units are drawn, and how many (paper section 3.1, speech decoder).

Axes: B batch, V = n_units + 1 classes (the last one ends the speech).
"""

from dataclasses import dataclass

import torch

from .errors import TasteError


@dataclass(frozen=True)
class Sampling:
    """How units are drawn, and how many.

    Steps: temperature, the top_k best classes, of these the smallest set with probability top_p, then one draw.
    `greedy` takes the best class and ignores the rest. The released code uses top_k = 25 and nothing else, the paper's
    evaluation of TASTE top_k = 10.

    Limits are counted from the prompt as in the original: at least min_ratio * P and at most max_ratio * P units,
    where P = N + 3 includes the three special positions. N counts tokens even when the text is pronounced. min_units
    and max_units replace the two by plain numbers. With a pointer the speech cannot end before its last sounds.
    """

    top_k: int = 25
    top_p: float = 1.0
    temperature: float = 1.0
    greedy: bool = False
    min_ratio: float = 2.0
    max_ratio: float = 20.0
    min_units: int | None = None
    max_units: int | None = None

    def __post_init__(self):
        if self.top_k < 1 or not 0 < self.top_p <= 1 or self.temperature <= 0:
            raise TasteError("sampling needs top_k >= 1, 0 < top_p <= 1 and temperature > 0.")
        if self.max_units is not None and self.max_units < max(1, self.min_units or 0):
            raise TasteError("max_units must be at least 1 and not below min_units.")


def sample_units(
    logits: torch.Tensor, ban_end: torch.Tensor, sampling: Sampling, generator: torch.Generator | None = None
) -> torch.Tensor:
    """One class per row. logits: (B, V), the last class ends the speech; ban_end: (B,) bool -> (B,).

    The original redraws from its top-k set until the draw is not the end, which may take for ever. Removing the end
    from the set after it was chosen gives the same distribution in one draw.
    """
    allowed = logits.float().clone()
    allowed[ban_end, -1] = -torch.inf
    best = allowed.argmax(dim=-1, keepdim=True)  # (B, 1)
    if sampling.greedy:
        return best[:, 0]
    scores = logits.float() / sampling.temperature
    scores, order = scores.topk(min(sampling.top_k, scores.shape[1]), dim=-1)  # (B, k)
    probs = scores.softmax(dim=-1)
    before = probs.cumsum(dim=-1) - probs  # (B, k) probability of everything better
    kept = torch.zeros_like(allowed).scatter(1, order, probs * (before < sampling.top_p))  # (B, V) in class order
    kept[ban_end, -1] = 0
    # dev: unit-end-redraw  the original loops for ever here; we take the best unit
    nothing_left = kept.sum(dim=-1) == 0  # only the banned end was in the set
    kept[nothing_left] = torch.zeros_like(kept).scatter(1, best, 1.0)[nothing_left]
    return torch.multinomial(kept, 1, generator=generator)[:, 0]


def limit(units: int | None, ratio: float, prompt_sizes: torch.Tensor) -> torch.Tensor:
    """The plain number if there is one, else the ratio times the sizes of the prompts (B,): (B,)."""
    return (prompt_sizes * ratio).long() if units is None else torch.full_like(prompt_sizes, units)
