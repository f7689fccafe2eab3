"""`taste-min extract`: the TASTE codes of a corpus, computed once, for the training of the language model.

Tokenizer and language model never train together (paper section 3.2), so codes are data. One safetensors file per 32
utterances, in the form of the feature cache; `data.FeatureStore` reads both. The quantized vectors follow from the
codes, and the language model holds the codebooks, so they are not stored again.

Axes: N tokens of the language model, W words, R quantiser layer, U units, D width.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torchaudio
from tokenizers import Tokenizer
from tqdm import tqdm

from .audio import SAMPLE_RATE, VOCODER_RATE, WINDOW_SECONDS, read_audio
from .data import FeatureStore
from .errors import TasteError
from .features import TAKE, shift_of, shifted
from .manifest import Utterance, read_manifest
from .shards import SHARD, fits, write_shard
from .text import split_words, tokenize
from .tokenizer import Taste

SPLITS = ("train", "dev", "test", "test_voice")


def extract(
    utterances: Sequence[Utterance],
    taste: Taste,
    tokenizer: Tokenizer,
    folder: Path,
    features: FeatureStore | None = None,
    progress: bool = True,
    units: bool = True,
) -> int:
    """Write the codes of all utterances to `folder`; files that are there and fit are kept. Returns the number written.

    tokenizer: of the language model. features: what the frozen networks say, row by row, instead of the recordings.
    units: with False the speech units of recordings are left out, which only the baseline on units reads.
    Per utterance: token_ids, word_ids (N,) of the language model, codes (W, R), units (U,), speaker_embedding; in its
    row id, split, speaker, style, text, seconds, words [(text, start, end)]. The transcript is the corpus's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name, written = taste.part("quantizer").fingerprint, 0
    for start in tqdm(range(0, len(utterances), SHARD), desc="codes", unit="file", disable=not progress):
        part = utterances[start : start + SHARD]
        path = folder / f"features-{start // SHARD:05d}.safetensors"
        if path.is_file() and fits(path, part, name):
            continue
        rows, tensors = [], []
        for i, utterance in enumerate(part, start):
            heard = _from_audio(taste, utterance, units) if features is None else _from_features(taste, features, i)
            text = tokenize(tokenizer, split_words(utterance.text))
            heard |= {"token_ids": text.token_ids.int(), "word_ids": text.word_ids.int()}
            tensors.append(heard)
            rows.append(_row(utterance, heard))
        write_shard(path, rows, tensors, name)
        written += 1
    return written


def _row(utterance: Utterance, tensors: dict[str, torch.Tensor]) -> dict:
    """What the loader must know before it opens the tensors. n_runs: units without repeats."""
    factor = round(100 * shift_of(utterance)) / 100  # a shifted recording is shorter, and its words come sooner
    row = {key: getattr(utterance, key) for key in ("id", "split", "speaker", "style", "text")}
    row["words"] = [(word, round(a / factor, 3), round(b / factor, 3)) for word, a, b in utterance.words]
    lengths = {"n_tokens": len(tensors["token_ids"]), "n_runs": len(tensors["units"].unique_consecutive())}
    return row | {"seconds": round(utterance.seconds / factor, 3)} | lengths


@torch.no_grad()
def _from_audio(taste: Taste, utterance: Utterance, units: bool) -> dict[str, torch.Tensor]:
    """As `Taste.encode` does it, without finding word times, which takes as long again."""
    wav, _ = shifted(read_audio(utterance.audio, VOCODER_RATE), utterance.words, shift_of(utterance))
    wav = torchaudio.functional.resample(wav, VOCODER_RATE, SAMPLE_RATE)
    if len(wav) > WINDOW_SECONDS * SAMPLE_RATE:
        raise TasteError(f"{utterance.audio} is longer than {WINDOW_SECONDS} s; cut the corpus.")
    tower = taste.look_inside(wav, utterance.text)
    codes = _codes(taste, tower.aggregator.pooled, tower.text.word_ids)
    heard = taste.unit_ids(wav) if units else torch.zeros(0)
    return _tensors(codes, heard, taste.speaker_encoder.speaker_embedding(wav))


@torch.no_grad()
def _from_features(taste: Taste, store: FeatureStore, index: int) -> dict[str, torch.Tensor]:
    batch = store.text_and_units([index], f"hidden_{taste.config.encoder.shallow_layer}")
    pooled = taste.aggregator(
        batch.token_ids,
        batch.word_ids,
        batch.token_lengths,
        batch.last,
        batch.values,
        key_lengths=batch.frame_lengths,
    ).pooled  # (1, N, D)
    return _tensors(_codes(taste, pooled, batch.word_ids[0]), batch.units[0], batch.speaker_embedding[0])


def _codes(taste: Taste, pooled: torch.Tensor, word_ids: torch.Tensor) -> torch.Tensor:
    """pooled (1, N, D), word_ids (N,) -> codes (W, R), from the first token of each word."""
    first = torch.cat([torch.ones(1), word_ids.diff()]).bool()
    return taste.quantizer(pooled[:, first]).codes[0]


def _tensors(codes: torch.Tensor, units: torch.Tensor, speaker: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"codes": codes.short(), "units": units.short(), "speaker_embedding": speaker.half()}


def of_features(utterances: Sequence[Utterance], store: FeatureStore) -> list[Utterance]:
    """The utterance of every row of a feature cache. Raises TasteError when the manifest does not have it."""
    known = {utterance.id: utterance for utterance in utterances}
    missing = [row["id"] for row in store.rows if row["id"].split(TAKE)[0] not in known]
    if missing:
        raise TasteError(f"the manifest has no utterance {missing[0]}, the features have; make the features again.")
    return [replace(known[row["id"].split(TAKE)[0]], id=row["id"]) for row in store.rows]


def command(args) -> int:
    """`taste-min extract`: args.data, args.out, args.preset, args.json."""
    from .smollm import load_smollm

    data, store = Path(args.data), None
    utterances = read_manifest(data)
    if (data / "features").is_dir():
        store = FeatureStore(data / "features", SPLITS)
        utterances = of_features(utterances, store)
    taste, (_, tokenizer) = Taste.from_pretrained(args.preset), load_smollm()
    written = extract(utterances, taste, tokenizer, Path(args.out), store, units=not args.no_units)
    facts = {"utterances": len(utterances), "files_written": written, "from_features": store is not None}
    print(
        json.dumps(facts, indent=2) if args.json else f"{args.out}: {len(utterances)} utterances, {written} new files"
    )
    return 0
