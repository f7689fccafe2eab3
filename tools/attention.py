"""Is the aggregator's attention where the words are? Trained weights against three controls (section 3.1.2).

    python tools/attention.py CORPUS [--limit 35]

Held-out recordings of a corpus of `taste-min corpus build`, and the human clips; word times by forced alignment. One
head speaks for a model: the one with most attention inside the own word on recordings of the split dev. What follows
is measured on other recordings. The mean over all heads stands beside it, and every head in the table `heads`.

    trained      the shipped aggregator
    untrained    Whisper's decoder, where training starts (values from the shallow layer, Whisper's projection)
    random       the same network with random weights
    shuffled     the trained one reads the words in a random order, and is measured where each row should be
    next_word    the trained one, measured on the span of the following word: a broken measurement

All see the frames of the recording only. Writes results/full/attention.json.

Axes: L layers, H heads, W words, T encoder frames.
"""

import argparse
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from bars import ROOT, weights

from taste_min import alignment
from taste_min.aggregator import Aggregator
from taste_min.audio import log_mel
from taste_min.bootstrap import grouped_interval
from taste_min.encoder import EncoderOutput
from taste_min.evaluate_command import write_json
from taste_min.frame_labels import n_frames
from taste_min.metrics import word_times
from taste_min.recordings import Recording, read_recordings
from taste_min.repro import commit, versions
from taste_min.text import tokenize
from taste_min.tokenizer import Taste
from taste_min.units import UNIT_SAMPLES

OUT = ROOT / "results" / "full" / "attention.json"
CONDITIONS = ("trained", "untrained", "random", "shuffled", "next_word")
SEED, N_DEV = 0, 12


@dataclass(frozen=True)
class Found:
    """Of one recording under one condition: share inside the word and error in ms, both (L, H, W)."""

    inside: np.ndarray
    error: np.ndarray


def maps(taste: Taste, model: Aggregator, state: EncoderOutput, words: list[str], n_keys: int) -> np.ndarray:
    """Attention of the last token of every word to the first n_keys frames: (L, H, W, T)."""
    text = tokenize(taste.tokenizer, words)
    ids, word_ids, length = text.token_ids[None], text.word_ids[None], torch.tensor([len(text.token_ids)])
    frames = torch.tensor([n_keys])
    output = model(ids, word_ids, length, state.last, state.shallow, need_attention=True, key_lengths=frames)
    return alignment.word_rows(output.cross_attention[0].numpy(), text.word_ids.numpy())


@torch.no_grad()
def measure(taste: Taste, models: dict[str, Aggregator], recording: Recording, seed: int) -> dict[str, Found]:
    """Every condition on one recording; {} when its text is not found in it. seed: of the order of the words."""
    wav = recording.load()
    words = word_times(wav, recording.text)
    if words is None:
        return {}
    spans, frames = alignment.word_spans(words), n_frames(len(wav))
    texts = [word.text.strip(",.?!") for word in words]
    order = np.random.default_rng([SEED, seed]).permutation(len(texts))
    state, n_keys = taste.encoder(log_mel(wav)[None]), -(-len(wav) // UNIT_SAMPLES)
    attention = {name: maps(taste, model, state, texts, n_keys) for name, model in models.items()}
    attention["shuffled"] = maps(taste, models["trained"], state, [texts[i] for i in order], n_keys)
    found = {}
    for name, rows in attention.items():
        error = 1000 * alignment.centre_error(rows, spans, frames)
        found[name] = Found(alignment.mass_inside(rows, spans), error)
    rows, following = alignment.next_word(attention["trained"], spans)
    error = 1000 * alignment.centre_error(rows, following, frames)
    last = np.full((*rows.shape[:2], 1), np.nan)  # the last word has none that follows
    inside = np.append(alignment.mass_inside(rows, following), last, axis=-1)
    return found | {"next_word": Found(inside, np.append(error, last, axis=-1))}


def pick_head(found: list[dict[str, Found]], name: str) -> tuple[int, int]:
    """(layer, head) with most attention inside the own word."""
    inside = np.concatenate([one[name].inside for one in found], axis=-1).mean(axis=-1)  # (L, H)
    layer, head = np.unravel_index(inside.argmax(), inside.shape)
    return int(layer), int(head)


def rows_of(recordings: list[Recording], found: list[dict[str, Found]], heads: dict[str, tuple[int, int]]) -> list:
    """Per recording and condition: values of the chosen head by word, and of all heads on average."""
    rows = []
    for recording, one in zip(recordings, found, strict=True):
        row = {"id": recording.id, "text": recording.text, "human": recording.columns["speaker"] == "librivox"}
        for name, values in one.items():
            for what, digits in (("inside", 4), ("error", 1)):
                every = getattr(values, what)
                row[f"{name}_{what}"] = _plain(every[heads[name]], digits)
                row[f"{name}_{what}_averaged"] = _plain(every.mean(axis=(0, 1)), digits)
        rows.append(row)
    return rows


def _plain(values: np.ndarray, digits: int) -> list[float | None]:
    return [round(float(x), digits) if np.isfinite(x) else None for x in values]


def _difference(rows: list[dict], first: str, second: str) -> dict:
    """Mean over words of one column minus another, paired, with the interval over texts."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        pairs = zip(row[first], row[second], strict=True)
        groups.setdefault(row["text"], []).extend(a - b for a, b in pairs if a is not None and b is not None)
    return asdict(grouped_interval([np.array(values) for values in groups.values() if values], np.mean))


def summarise(rows: list[dict]) -> dict:
    """The numbers of the claim, for the chosen head and (`_averaged`) all heads, with the means they come from."""
    summary = {}
    for suffix in ("", "_averaged"):
        for control in ("random", "shuffled", "untrained"):
            names = (f"{control}_error{suffix}", f"trained_error{suffix}")
            summary[f"{control}_minus_trained_centre_error_ms{suffix}"] = _difference(rows, *names)
        for condition in ("trained", "next_word"):
            names = (f"{condition}_inside{suffix}", f"untrained_inside{suffix}")
            summary[f"{condition}_minus_untrained_mass_inside{suffix}"] = _difference(rows, *names)
        for name in CONDITIONS:
            for what in ("inside", "error"):
                values = [x for row in rows for x in row[f"{name}_{what}{suffix}"] if x is not None]
                key = f"{name}_{'mass_inside' if what == 'inside' else 'centre_error_ms'}{suffix}"
                summary[key] = {"value": float(np.mean(values)), "median": float(np.median(values))}
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder with manifest.tsv")
    parser.add_argument("--limit", type=int, default=35, help="recordings besides the human clips (default: 35)")
    args = parser.parse_args()
    started, taste = time.monotonic(), Taste.from_pretrained("mini")
    torch.manual_seed(SEED)
    start = Aggregator(taste.config.aggregator)
    start.load_whisper_decoder(taste.recognizer.whisper.model.decoder, identity_values=False)
    random = Aggregator(taste.config.aggregator)
    models = {"trained": taste.aggregator, "untrained": start.eval(), "random": random.eval()}
    manifest = str(args.corpus / "manifest.tsv")
    tested = read_recordings(manifest, "test", limit=args.limit - args.limit // 4)
    tested += read_recordings(manifest, "test_voice", limit=args.limit // 4) + read_recordings("human")
    chosen = read_recordings(manifest, "dev", limit=N_DEV)

    def measure_all(recordings: list[Recording]) -> tuple[list[Recording], list[dict[str, Found]]]:
        every = [measure(taste, models, recording, i) for i, recording in enumerate(recordings)]
        there = [i for i, found in enumerate(every) if found]
        return [recordings[i] for i in there], [every[i] for i in there]

    _, on_dev = measure_all(chosen)
    heads = {name: pick_head(on_dev, name) for name in models}
    heads |= dict.fromkeys(("shuffled", "next_word"), heads["trained"])
    recordings, found = measure_all(tested)
    rows = rows_of(recordings, found, heads)
    table = {name: np.concatenate([one[name].inside for one in found], axis=-1) for name in CONDITIONS}
    run = {"seed": SEED, "device": "cpu", "weights_manifest_sha256": weights(), "commit": commit()}
    run |= {"versions": versions(), "n_recordings": len(rows), "n_not_aligned": len(tested) - len(rows)}
    summary = summarise(rows) | {"chosen_heads": heads, "heads": {k: _heads(v) for k, v in table.items()}}
    write_json(OUT, summary | {"utterances": rows, "run": run | {"seconds": round(time.monotonic() - started, 1)}})


def _heads(inside: np.ndarray) -> list[list[float]]:
    """Mean share inside the word of every head, (L, H) as lists."""
    return np.nanmean(inside, axis=-1).round(3).tolist()


if __name__ == "__main__":
    main()
