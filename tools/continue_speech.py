"""What the joint language model says, measured: recordings continued, and speech from text alone (paper section 4.2).

    python tools/continue_speech.py CORPUS [--sentences 6]

Prompts are the beginnings of the human clips and of test sentences of the corpus, each in a slow and a fast rendering,
with the words that the recogniser hears. The token and the embedding variant continue them, and so does the cascade:
the text model alone, spoken by the text-only decoder. `recording` is what the speaker went on to say. Speech from text:
other test sentences with sampled codes, twice with one seed and once with another, and the end of each after its
beginning as it sounds in a slow and in a fast rendering.
Writes results/full/continuation.json; a run that was interrupted continues.

Axes: S samples, n prompts.
"""

import argparse
import hashlib
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from bars import ROOT, weights
from experiments.continuations import summarise

from taste_min import metrics
from taste_min.audio import SAMPLE_RATE, VOCODER_RATE, WINDOW_SECONDS, read_audio
from taste_min.clips import human_clips
from taste_min.corpus import TRAIN_VOICES, load_manifest
from taste_min.evaluate_command import Partial, write_json
from taste_min.joint_sampler import JointSampling, sampler_tables
from taste_min.judge import Judge
from taste_min.llama import text_logits
from taste_min.phones import word_sounds
from taste_min.pitch import mel_pitch
from taste_min.repro import commit, versions
from taste_min.systems import Spoken
from taste_min.taslm import Taslm
from taste_min.taslm_files import SHIPPED
from taste_min.taslm_speech import continue_text, read_text, say
from taste_min.text import Word
from taste_min.tokenizer import Taste
from taste_min.tokens import TasteTokens

OUT = ROOT / "results" / "full" / "continuation.json"
TASLM, SEEDS = ("token", "embedding"), (0, 1)
SHARE, FEWEST_WORDS = 2 / 3, 6  # SHARE: of the words of a recording that are the prompt
SAMPLING, BEST_CODES = JointSampling(), JointSampling(taste_top_p=0.0)


class Beginning(NamedTuple):
    """A recording that is cut after some of its words. wav, rest: (S,) at 16 kHz; text, rest_text: what is said there;
    rest_seconds: how long the words of the rest last."""

    id: str
    voice: str
    human: bool
    wav: torch.Tensor
    text: str
    rest: torch.Tensor
    rest_text: str
    rest_seconds: float


def begin(name: str, voice: str, human: bool, wav: torch.Tensor, words: list[Word]) -> Beginning:
    """Cut a recording (S,) at 16 kHz after SHARE of its words."""
    n, texts = round(SHARE * len(words)), [word.text for word in words]
    cut, seconds = round(words[n - 1].end * SAMPLE_RATE), words[-1].end - words[n].start
    return Beginning(name, voice, human, wav[:cut], " ".join(texts[:n]), wav[cut:], " ".join(texts[n:]), seconds)


def sentences(corpus: Path, n: int) -> list[tuple[Beginning, Beginning]]:
    """n test sentences, each slow and fast by one voice: voices in turn, texts in the order of their ids, which are
    hashes of the texts."""
    found = defaultdict(lambda: defaultdict(dict))
    for row in sorted(load_manifest(corpus), key=lambda row: row.id):
        if row.split == "test" and len(row.words) >= FEWEST_WORDS:
            found[row.speaker][row.text][row.style] = row
    pairs = {
        voice: [(styles["slow"], styles["fast"]) for styles in found[voice].values() if {"slow", "fast"} <= {*styles}]
        for voice in TRAIN_VOICES
    }
    turns = [pair for turn in zip(*pairs.values(), strict=False) for pair in turn][:n]
    return [
        tuple(begin(row.id, row.speaker, False, read_audio(row.audio, convert=True), row.words) for row in pair)
        for pair in turns
    ]


def manner(wav: torch.Tensor, text: str) -> dict:
    """log_rate: of the seconds per speech sound, None where the text is not found. log_f0: mean over voiced frames."""
    from torchaudio.functional import resample  # not above: taste_min comes first

    words = metrics.word_times(wav, text)
    sounds = sum(len(word_sounds(word)) - 1 for word in text.split())
    rate = float(np.log((words[-1].end - words[0].start) / sounds)) if words and sounds else None
    f0 = mel_pitch(resample(wav, SAMPLE_RATE, VOCODER_RATE))
    return {"log_rate": rate, "log_f0": float(f0[f0 > 0].log().mean()) if (f0 > 0).any() else None}


@torch.no_grad()
def text_nats(model: Taslm, before: str, text: str) -> tuple[float, int]:
    """Of a text that follows another, by the text model as it was before training: their sum, and how many tokens."""
    ids = [read_text(model, part.split()).token_ids for part in (before, text)]
    whole = torch.cat([torch.tensor([model.config.sos_id]), *ids])
    with model.language_model.disable_adapter():
        logits = text_logits(model.llm, whole[None, :-1])[0, -len(ids[1]) :]
    return float(F.cross_entropy(logits, ids[1], reduction="sum")), len(ids[1])


class Bench:
    """The models and the measuring instruments."""

    def __init__(self):
        self.taste, self.judge = Taste.from_pretrained("mini"), Judge.load("tiny.en", "cpu")
        self.models = {name: Taslm.from_pretrained(f"mini-{name}") for name in TASLM}
        for model in self.models.values():  # made before anything is timed
            sampler_tables(model.tokenizer, model.config.llm.vocab_size)

    def speak(self, tokens: list[TasteTokens], seed: int, text_only: bool = False) -> list[torch.Tensor]:
        """Recordings (S,) at 16 kHz; what rambles on is not heard out."""
        decoded = self.taste.decode_many(tokens, text_only=text_only, seed=seed)
        return [Spoken(one.wav, one.sample_rate).at_16k()[: WINDOW_SECONDS * SAMPLE_RATE] for one in decoded]

    def hear(self, wavs: list[torch.Tensor], texts: list[str]) -> list[dict]:
        """What the judge hears in recordings (S,) of known texts, and their quality."""
        rows = []
        for wav, text, heard in zip(wavs, texts, self.judge.transcribe(wavs), strict=True):
            errors = metrics.word_errors(text, heard)
            row = {"text": text, "heard": heard, "word_errors": errors.errors, "reference_words": errors.words}
            rows.append(row | {"dnsmos_p808": round(metrics.dnsmos_p808(wav), 4), "seconds": len(wav) / SAMPLE_RATE})
        return rows

    def voice(self, wav: torch.Tensor) -> torch.Tensor:
        """Speaker embedding (256,)."""
        return self.taste.speaker_encoder.speaker_embedding(wav).cpu()

    def continue_prompt(self, prompts: list[Beginning], voices: torch.Tensor, number: int) -> list[dict]:
        """Rows of one prompt: its own, and of everything that follows it. voices: (n, 256), of all prompts."""
        prompt, rows, tokens = prompts[number], [], []
        heard = self.taste.encode(prompt.wav)
        jobs = [(name, seed) for name in TASLM for seed in SEEDS] + [("cascade", SEEDS[0])]
        for name, seed in jobs:
            started = time.perf_counter()
            if name == "cascade":
                tokens.append(continue_text(self.models["token"], heard, SAMPLING, seed))
            else:
                tokens.append(self.models[name].continue_speech(heard, SAMPLING, seed))
            seconds = time.perf_counter() - started
            rows.append(
                {"variant": name, "seed": seed, "words": len(tokens[-1].words), "wall_seconds": round(seconds, 3)}
            )
        rows += [{"variant": "recording"}, {"variant": "prompt"}]
        wavs = self.speak(tokens[:-1], number) + self.speak(tokens[-1:], number, text_only=True)
        texts = [*(one.text for one in tokens), prompt.rest_text, prompt.text]
        other = prompts[(number + 2) % len(prompts)].text  # the next one may be the same sentence
        wavs += [prompt.rest, prompt.wav]
        for row, wav, heard_row in zip(rows, wavs, self.hear(wavs, texts), strict=True):
            row |= {"owner": prompt.id, "voice": prompt.voice, "human": prompt.human} | heard_row
            row |= manner(wav, row["text"])
            row["similarities"] = [round(x, 4) for x in (voices @ self.voice(wav)).tolist()]
            if row["variant"] != "prompt":
                row["text_nats"], row["text_tokens"] = text_nats(self.models["token"], heard.text, row["text"])
                row["shuffled_text_nats"] = text_nats(self.models["token"], other, row["text"])[0]
        return rows

    def say_sentence(self, slow: Beginning, fast: Beginning) -> dict:
        """Row of a sentence that is spoken from its text: by two seeds, and its end after two beginnings."""
        model, voice, text = self.models["token"], self.voice(slow.wav), f"{slow.text} {slow.rest_text}"
        first, second = (say(model, text, voice, seed=seed) for seed in SEEDS)
        wavs = self.speak([first], 0) + self.speak([first, second], 1) + self.speak([first], 0, text_only=True)
        given = [self.taste.encode(one.wav, one.text) for one in (slow, fast)]
        wavs += self.speak([say(model, slow.rest_text, voice, BEST_CODES, before=one) for one in given], 0)
        names = ("said", "repeated", "other_seed", "text_only", "slow", "fast")
        row = {"owner": slow.id, "voice": slow.voice, "recorded_seconds": [slow.rest_seconds, fast.rest_seconds]}
        for name, wav, heard in zip(names, wavs, self.hear(wavs, [text] * 4 + [slow.rest_text] * 2), strict=True):
            words = metrics.word_times(wav, heard["text"])
            seconds = words and np.diff([*(word.start for word in words), words[-1].end]).round(3).tolist()
            row[name] = heard | {"word_seconds": seconds}
        return row


def adapters() -> str:
    """Names the shipped adapters: their manifest holds the hash of every file."""
    return hashlib.sha256((SHIPPED / "manifest.json").read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder with manifest.tsv")
    parser.add_argument(
        "--sentences", type=int, default=6, help="spoken from text; half as many are prompts, twice each"
    )
    args = parser.parse_args()
    started, bench = time.monotonic(), Bench()
    found = sentences(args.corpus, args.sentences + args.sentences // 2)
    spoken, prompts = found[: args.sentences], [one for pair in found[args.sentences :] for one in pair]
    prompts += [begin(clip.name, clip.voice, True, clip.wav, clip.words) for clip in human_clips()]
    voices = torch.stack([bench.voice(prompt.wav) for prompt in prompts])
    run = {"device": "cpu", "threads": torch.get_num_threads(), "judge": "tiny.en", "sampling": asdict(SAMPLING)}
    run |= {"weights_manifest_sha256": weights(), "sentences": args.sentences}
    run["taslm_manifest_sha256"] = adapters()
    partial = Partial(Path(f"{OUT}.partial"), run, batch=1)
    jobs = [lambda i=i: {"rows": bench.continue_prompt(prompts, voices, i)} for i in range(len(prompts))]
    jobs += [lambda pair=pair: {"spoken": bench.say_sentence(*pair)} for pair in spoken]
    for number in range(len(partial.rows), len(jobs)):
        partial.add([jobs[number]()])
        cpu = time.process_time()
        print(f"{number + 1} of {len(jobs)}: {time.monotonic() - started:.0f} s, {cpu:.0f} s of cpu", flush=True)
    rows = [row for part in partial.rows for row in part.get("rows", [])]
    spoken = [part["spoken"] for part in partial.rows if "spoken" in part]
    run |= {"n_prompts": len(prompts), "commit": commit(), "versions": versions()}
    write_json(OUT, summarise(rows, spoken) | {"utterances": rows, "spoken": spoken, "run": run})
    Path(f"{OUT}.partial").unlink()


if __name__ == "__main__":
    main()
