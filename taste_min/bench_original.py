"""What the original decoder computes, written plainly, to be timed beside ours on the same weights and the same cores.

The mathematics is that of unit_decoder.py and flow.py; only the work differs. Unit decoding: keys and values are joined
anew at every step, and every layer projects a table of all 2S - 1 distances at every step, though a step needs S of
them and has projected S - 1 before; the end of speech is drawn again until it is not the end. Flow: two calls of the
network per step. Vocoder: weights are normalised at every call, convolutions keep the frames of a channel together.

Axes: P prompt positions, U units, S positions so far, D width, H heads.
"""

import torch

from .transformer import RelativeAttention, relative_positions, shift_distances
from .unit_decoder import UnitDecoder

REFERENCE = "the original's algorithm (bench_original.py) in this torch, float32, same weights, cores and run"
TOP_K = 25


@torch.no_grad()
def write_units(decoder: UnitDecoder, prompt: torch.Tensor, n_units: int) -> torch.Tensor:
    """Draw n_units units after a prompt (1, P, D) from torch's own generator -> (U,)."""
    llm, units, x = decoder.llm, [], prompt
    longest = prompt.shape[1] + n_units
    distances = relative_positions(longest - 1, 1 - longest, llm.d_model)  # kept; its projections are not
    caches: list[tuple | None] = [None] * len(llm.encoders)
    for step in range(n_units):
        n_keys = prompt.shape[1] + step
        table = distances[longest - n_keys : longest + n_keys - 1]  # (2S - 1, D)
        x = llm.embed(x)
        for i, layer in enumerate(llm.encoders):
            mixed, caches[i] = _attend(layer.self_attn, layer.norm_mha(x), table, caches[i])
            x = x + mixed
            x = x + layer.feed_forward(layer.norm_ff(x))
        probabilities, classes = decoder.llm_decoder(llm.after_norm(x)[0, -1]).softmax(-1).topk(TOP_K)
        unit = decoder.end_of_speech
        while unit == decoder.end_of_speech:  # too early for the end at every step
            unit = int(classes[torch.multinomial(probabilities, 1)])
        units.append(unit)
        x = decoder.speech_embedding(torch.tensor([[unit]]))
    return torch.tensor(units)


def _attend(attention: RelativeAttention, x: torch.Tensor, table: torch.Tensor, cache: tuple | None) -> tuple:
    q, k, v = (
        linear(x).unflatten(-1, (attention.n_heads, -1)).transpose(1, 2)  # (1, H, T, D/H)
        for linear in (attention.linear_q, attention.linear_k, attention.linear_v)
    )
    if cache is not None:
        k, v = torch.cat((cache[0], k), dim=2), torch.cat((cache[1], v), dim=2)
    positions = attention.project(table)  # (H, 2S - 1, D/H)
    content = (q + attention.pos_bias_u[:, None]) @ k.transpose(-1, -2)  # (1, H, T, S)
    by_distance = (q + attention.pos_bias_v[:, None]) @ positions.transpose(-1, -2)  # (1, H, T, 2S - 1)
    scores = (content + shift_distances(by_distance, k.shape[2])) / q.shape[-1] ** 0.5
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1 + scores.shape[3] - scores.shape[2])
    mixed = scores.masked_fill(later, -torch.inf).softmax(-1) @ v
    return attention.linear_out(mixed.transpose(1, 2).flatten(2)), (k, v)
