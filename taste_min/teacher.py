"""What the unit decoder knows when the true past is given: the accuracies of the paper's ablation (section 4.3).

Axes: N text tokens, U units, D width.
"""

from typing import TYPE_CHECKING

import torch

from .features import unit_path
from .metrics import word_times
from .objectives import unit_scores
from .text import tokenize
from .tokens import TasteTokens

if TYPE_CHECKING:
    from .tokenizer import Taste


@torch.no_grad()
def teacher_forced(
    taste: "Taste", wav: torch.Tensor, tokens: TasteTokens, text_only: bool = False
) -> dict[str, float] | None:
    """Sums over the units of a recording (S,) at 16 kHz and the end: `unit_nats` of cross-entropy, right guesses
    `unit_top1` and `unit_top5`, and their number `unit_positions`.

    None for recordings that the decoder reads in pieces (more than 12 s), and when it follows a pointer and the text
    cannot be found in the recording.
    """
    decoder = taste.part("text_only_decoder" if text_only else "unit_decoder")
    if len(tokens.pieces()) > 1:
        return None
    units, path = taste.unit_ids(wav), None
    if decoder.config.pronounced:
        words = word_times(wav, tokens.text)
        if words is None:
            return None
        path = unit_path(wav, words, len(units))[None].to(taste.device)
    text = tokenize(taste.tokenizer, [word.text for word in tokens.words])
    prediction = decoder(
        text.token_ids[None].to(taste.device),
        torch.tensor([len(text.token_ids)], device=taste.device),
        units[None].to(taste.device),
        torch.tensor([len(units)], device=taste.device),
        tokens.speaker_embedding.float()[None].to(taste.device),
        None if text_only else tokens.embeddings[text.word_ids][None].to(taste.device),  # (1, N, D)
        text_only,
        path,
    )
    scores = unit_scores(prediction)
    sums = {"unit_nats": "cross_entropy", "unit_top1": "top1", "unit_top5": "top5"}
    return {name: round(float(scores[key][0]), 4) for name, key in sums.items()} | {
        "unit_positions": scores["cross_entropy"][1]
    }
