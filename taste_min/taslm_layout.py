"""How text and TASTE share one sequence: the word-level delay of the joint language model (paper section 3.2).

The speech side lags the text side by `delay` words, so that the codes of a word are predicted once all its text is
known. Pure functions of indices; no weights.

Axes: B batch, T text tokens, W words, N positions = 1 + T + delay, R quantiser layer.
"""

from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from .errors import TasteError

IGNORE = -1  # in labels: no loss here; in inputs: the learned padding embedding


class Layout(NamedTuple):
    """One utterance laid out for the model: what enters at each position and what it has to predict.

    token_ids: (N,) sos, the text, then -1 (`pad_text`) while the last words are still being spoken.
    codes: (N, R) the speech side; -1 (`pad_audio`) before the first word is available. Position 0 ignores it.
    text_labels: (N,) and taste_labels: (N, R), -1 = no label. The end of the text is never a label.
    """

    token_ids: torch.Tensor
    codes: torch.Tensor
    text_labels: torch.Tensor
    taste_labels: torch.Tensor


class Batch(NamedTuple):
    """Layouts padded to one length: the fields of `Layout` with a leading B, and mask (B, N), True = real position."""

    token_ids: torch.Tensor
    codes: torch.Tensor
    text_labels: torch.Tensor
    taste_labels: torch.Tensor
    mask: torch.Tensor

    def to(self, device: torch.device | str) -> "Batch":
        return Batch(*(tensor.to(device) for tensor in self))


def layout(
    token_ids: torch.Tensor,
    word_ids: torch.Tensor,
    codes: torch.Tensor,
    sos_id: int,
    delay: int = 1,
    delay_level: str = "word",
) -> Layout:
    """token_ids, word_ids: (T,), codes: (W, R), one row per word -> `Layout` of N = 1 + T + delay positions.

    The speech side of a token of word k is word k - delay, constant through the word; after the text, `delay` more
    positions bring the last words. The codes that first enter at position p + 1 are the label of position p.
    Raises TasteError when the word indices are not 0..W-1 in order.
    """
    first = torch.cat([torch.ones(1, dtype=torch.bool), word_ids[1:] != word_ids[:-1]])[: len(word_ids)]
    if len(token_ids) != len(word_ids) or not torch.equal(word_ids[first], torch.arange(len(codes))):
        raise TasteError(
            f"every text token needs a word index, and the indices must run from 0 to {len(codes) - 1} in order, "
            "one row of codes per word."
        )
    if delay_level == "word":
        words = torch.cat([word_ids, torch.arange(len(codes), len(codes) + delay)]) - delay
        new = torch.cat([first, torch.ones(delay, dtype=torch.bool)])
    else:
        words = torch.cat([torch.full((delay,), -1), word_ids])
        new = torch.cat([torch.zeros(delay, dtype=torch.bool), first])
    none = codes.new_full((1, codes.shape[1]), IGNORE)
    speech = torch.cat([codes, none])[words.clamp(min=-1)]  # (T + delay, R); row -1 is `none`
    pad_text = token_ids.new_full((delay,), IGNORE)
    return Layout(
        token_ids=torch.cat([token_ids.new_tensor([sos_id]), token_ids, pad_text]),
        codes=torch.cat([none, speech]),
        text_labels=torch.cat([token_ids, pad_text, token_ids.new_tensor([IGNORE])]),
        taste_labels=torch.cat([torch.where(new[:, None], speech, IGNORE), none]),
    )


def collate(layouts: list[Layout], spurious_labels: bool = False) -> Batch:
    """Pad layouts to one length with -1 labels.

    spurious_labels: copy a defect of the original, whose shorter samples learn token 0 after their end; for parity.
    """
    fields = [pad_sequence(list(rows), batch_first=True, padding_value=IGNORE) for rows in zip(*layouts, strict=True)]
    n_positions = torch.tensor([len(one.token_ids) for one in layouts])
    mask = torch.arange(fields[0].shape[1]) < n_positions[:, None]  # (B, N)
    if spurious_labels:  # dev: no-spurious-labels
        text_labels = fields[2]
        labelled = torch.arange(text_labels.shape[1]) < (text_labels >= 0).sum(1).max()
        text_labels[mask & labelled & (text_labels < 0)] = 0
    return Batch(*fields, mask)


def shuffled(token_ids: torch.Tensor, seed: int) -> torch.Tensor:
    """Rows (B, N) with their text in another order; the start token and padding stay."""
    generator, mixed = torch.Generator().manual_seed(seed), token_ids.clone()
    for row in mixed:
        places = (row >= 0).nonzero()[1:, 0]
        row[places] = row[places[torch.randperm(len(places), generator=generator)]]
    return mixed
