"""From which encoder layer should keys and values come (claims 2 and 3)? A sweep over all that are stored.

Values: runs of the ablation that differ only in the layer (`ablation.SWEEP`). Keys: attention of untrained Whisper with
the keys of another layer. Its key projection was trained on the last layer, so another one would fail for the wrong
reason. Here every layer gets the linear map that best gives the keys of the last one (ridge regression on training
frames). Only the last cross-attention changes; its queries stay, heads are averaged. The control "shuffled" has the
keys of the last layer in random order of time.

Axes: N text tokens, W words, T encoder frames, D width, H heads.
"""

import numpy as np
import torch

from taste_min.aggregator import Aggregator
from taste_min.alignment import centre_of_mass, forward_steps, word_rows
from taste_min.bootstrap import merge_groups, paired_difference, percentile_interval, ratio
from taste_min.data import FeatureStore
from taste_min.errors import TasteError
from taste_min.probe import LinearProbe, fit_ridge

from .ablation_data import LAYERS, stored_layers
from .ablation_table import WITH_PAST, measure

COLUMNS = ("forward", "steps", "error_ms", "words")


def fit_keys(decoder: Aggregator, store: FeatureStore, n: int = 200) -> dict[str, LinearProbe]:
    """For every stored layer but the last: frames -> keys of the last cross-attention, from n utterances."""
    indices = np.linspace(0, len(store) - 1, min(n, len(store)), dtype=int).tolist()
    projection = decoder.layers[-1].encoder_attn.k_proj
    with torch.no_grad():
        keys = torch.cat([projection(store.tensor(i, "last")) for i in indices]).numpy()
    layers = [layer for layer in stored_layers(store) if layer != "last"]
    return {layer: fit_ridge(torch.cat([store.tensor(i, layer) for i in indices]).numpy(), keys) for layer in layers}


@torch.no_grad()
def queries(decoder: Aggregator, store: FeatureStore, index: int) -> torch.Tensor:
    """What the last cross-attention asks with, per text token of an utterance: (H, N, D/H), scaled."""
    last, tokens = store.tensor(index, "last")[None], store.tensor(index, "token_ids").long()
    prefix = torch.tensor(decoder.config.prefix)
    ids = torch.cat([prefix, tokens])[None]  # (1, P + N)
    x = decoder.embed_tokens(ids) + decoder.embed_positions.weight[: ids.shape[1]]
    *lower, top = decoder.layers
    for layer in lower:
        x, _ = layer(x, last, last, False, None)
    y = top.self_attn_layer_norm(x)
    x = x + top.self_attn(y, y, y, causal=True)[0]
    q = top.encoder_attn.q_proj(top.encoder_attn_layer_norm(x))[0, len(prefix) :]  # (N, D)
    q = q.unflatten(-1, (top.encoder_attn.n_heads, -1)).transpose(0, 1)  # (H, N, D/H)
    return q * q.shape[-1] ** -0.5


def attention(query: torch.Tensor, keys: torch.Tensor) -> np.ndarray:
    """Mean over heads of the attention of queries (H, N, D/H) to keys (T, D): (N, T)."""
    keys = keys.unflatten(-1, (len(query), -1)).transpose(0, 1)  # (H, T, D/H)
    return (query @ keys.transpose(1, 2)).softmax(dim=-1).mean(dim=0).numpy()


def word_sums(attended: np.ndarray, word_ids: np.ndarray, spans: np.ndarray) -> list[float]:
    """COLUMNS of one utterance. attended: (N, T), spans: (W, 2) in seconds."""
    centres = centre_of_mass(word_rows(attended, word_ids), attended.shape[1])  # (W,)
    forward = forward_steps(centres)
    errors = 1000 * np.abs(centres - spans.mean(axis=1))
    return [float(forward.sum()), len(forward), float(errors.sum()), len(errors)]


def measure_keys(
    decoder: Aggregator, keys: dict[str, LinearProbe], store: FeatureStore, spans: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """COLUMNS of the sentences of a store (sentences, 4), with the keys of every layer. spans: (W, 2) by utterance."""
    rows: dict[str, list] = {}
    projection, texts = decoder.layers[-1].encoder_attn.k_proj, []
    for i, row in enumerate(store.rows):
        if row["id"] not in spans:
            continue
        texts.append(row["text"])
        query, word_ids = queries(decoder, store, i), store.tensor(i, "word_ids").numpy()
        with torch.no_grad():
            found = {"last": projection(store.tensor(i, "last"))}
        found["shuffled"] = found["last"][
            torch.randperm(len(found["last"]), generator=torch.Generator().manual_seed(i))
        ]
        for layer, probe in keys.items():
            found[layer] = torch.from_numpy(probe(store.tensor(i, layer).numpy())).float()
        for layer, states in found.items():
            rows.setdefault(layer, []).append(word_sums(attention(query, states), word_ids, spans[row["id"]]))
    return {layer: merge_groups(np.array(table), texts) for layer, table in rows.items()}


def tabulate_keys(tables: dict[str, np.ndarray], shallow: str) -> dict[str, dict]:
    """Levels of every layer, and last against shallow, with intervals over sentences."""
    measures = {"forward_steps": [0, 1], "centre_error_ms": [2, 3]}

    def entry(interval) -> dict:
        return {key: round(value, 5) for key, value in vars(interval).items()}

    found = {
        f"keys_{layer}_{name}": entry(percentile_interval(table[:, columns], ratio))
        for layer, table in tables.items()
        for name, columns in measures.items()
    }
    for first, second, a, b in (("last", "shallow", "last", shallow), ("shallow", "last", shallow, "last")):
        for name, columns in measures.items():
            difference = paired_difference(tables[a][:, columns], tables[b][:, columns], ratio)
            found[f"{first}_minus_{second}_keys_{name}"] = entry(difference)
    return found


def tabulate_values(runs: dict[str, dict[int, dict]]) -> dict[str, dict]:
    """Loss and top-5 accuracy of every run layer, mean and range over seeds, and the best layer by loss.

    `best_value_layer_share_of_depth`: 0 = before the first layer, 1 = the last one. Raises TasteError when fewer than
    all layers were run.
    """
    found = {}
    for source in ("attended", "encoder"):
        names = [f"{source}_{i}" for i in range(len(LAYERS))]
        missing = [name for name in names if name not in runs]
        if missing:
            raise TasteError(f"the sweep lacks {', '.join(missing)}; run them with `python tools/ablate.py run` first.")
        losses = []
        for name in names:
            for part in ("loss", "top5"):
                values = [measure(part, record["test"][WITH_PAST]) for record in runs[name].values()]
                found[f"values_{name}_{part}"] = {
                    "value": round(float(np.mean(values)), 5),
                    "lowest": round(min(values), 5),
                    "highest": round(max(values), 5),
                }
            losses.append(found[f"values_{name}_loss"]["value"])
        best = int(np.argmin(losses)) / (len(LAYERS) - 1)
        found["best_value_layer_share_of_depth" if source == "attended" else "best_encoder_layer_share_of_depth"] = {
            "value": best
        }
    return found
