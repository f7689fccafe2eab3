"""Writes taste_min/corpus_sentences.txt: the sentences of the mini corpus.

    python tools/make_sentences.py --raw raw.jsonl        # half an hour on two cores, resumes where it stopped

Three sources, named in the header of the file with their shares:
 - grammar: sentences of the hand-written grammar in sentence_grammar.py, of which only the share is kept that a small
   language model (SmolLM2-135M-Instruct) finds least odd;
 - completed: the first four to seven words of a grammar sentence, finished by that model by sampling;
 - written: the examples below, by hand.
Filters: 5 to 20 words, all in the aligner's dictionary, nothing unsafe, no names of people beyond common first names,
no near-duplicates. `--raw` keeps the unfiltered samples, so that the filters can be changed without sampling again.
"""

import argparse
import json
import random
import re
import sys
from collections import Counter
from pathlib import Path

from sentence_grammar import sentence

import taste_min  # noqa: F401  before transformers: see taste_min/_torchaudio.py

OUT = Path(__file__).resolve().parents[1] / "taste_min" / "corpus_sentences.txt"
SEED = 20250704
BATCH, NEW_TOKENS, TEMPERATURE, TOP_K = 64, 20, 0.8, 50
GRAMMAR_PER_BATCH = 192
TARGET = {"completed": 1900, "grammar": 1800}
KEEP_SHARE = {"completed": 0.9, "grammar": 0.5}  # of the candidates, by mean log-probability per token
MAX_PER_START = 20  # sentences with the same first three words

EXAMPLES = """The ferry was late, so we bought soup and waited on the pier.
Can you hold the ladder while I change the bulb?|My grandmother keeps dried mint in a blue jar above the stove.
If it snows tonight, the school bus will take the lower road.
The engineer checked every bolt before the bridge was opened again.
Two goats escaped through the hole in the garden fence.|Why did you paint the kitchen door such a bright yellow?
After the concert, nobody could find the key to the piano.
We walked home slowly because the pavement was covered with ice.
Put the wet boots near the heater and close the window.
The judge read the letter twice and folded it without a word.
She practises the violin every morning before breakfast.
Fresh bread smells best when the whole street is still asleep.|How many chairs do we need for the meeting on Friday?
The old clock stops whenever a heavy truck drives past the shop.|I forgot my umbrella on the train again this week.
Our neighbour grows tomatoes, beans and peppers on her balcony.
The captain turned the boat away from the rocks just in time.
You should rest for a day before you climb the second hill.|A young man in a green coat asked the way to the museum.
They sold the farm last spring and moved closer to the sea.
The library closes at six, but the reading room stays open.
Without a map, the children followed the river to the mill.|Did anyone feed the cat while we were at the market?
The doctor spoke calmly and wrote the dose on a small card.
Most of the apples had fallen by the first week of October.
He repaired the radio with a spoon, a wire and some patience.|It takes an hour to cook the lentils on a low flame.
The coach told the players to drink more water in the heat.
When the lights went out, Emma counted the candles aloud.
Please leave the parcel with the woman on the ground floor.
Every summer the swallows return to the roof of the barn.
Nothing in the suitcase was dry after the long ride in the rain.
The tailor measured the sleeve again and shook his head.|Where is the receipt for the lamp that broke on Sunday?
Half of the class had never seen the ocean before.|There is a small bakery behind the station that opens at five.
I hope the new road will be finished before the winter."""

FIRST_NAMES = """
Tom Anna Maria Peter Sarah David Lucy Sam Emma Jack Nina Oliver Grace Ben Alice Paul John Mary Kate Max Leo
Rose James Daniel Laura Simon Helen Mark Julia Robert Martin Clara Henry Sophie Alex Ella Lily George Jane
"""
OTHER_CAPITALS = """
I I'm I'll I've I'd Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April May
June July August September October November December Christmas Easter English French German Spanish Italian
Paris London Rome Europe Africa Asia Mars Venus
"""
CAPITALS = frozenset((FIRST_NAMES + OTHER_CAPITALS).split())
QUESTION = frozenset(
    ("can", "could", "would", "did", "do", "why", "where", "how", "is", "are", "should", "was", "were", "who")
)
MAYBE_QUESTION = frozenset(("have", "what", "when", "has"))
UNSAFE_STEMS = """
kill murder dead death dying suicid sex nude naked porn drug cocaine heroin alcohol drunk whisk vodka weapon bomb
terror blood corpse abus assault attack knife hate racis racial nazi slave jew muslim islam christian church bible
relig lesbian transgender gender politic president democrat republican election trump obama refugee immigra idiot
stupid ugly damn shit fuck bitch virus covid pandemic cancer pregnan victim crime criminal prison police arrest
thief burned divorce cheat breast seduc lover poison toxic tortur scream devil satan demon sword fight robbe
"""
UNSAFE_WORDS = """
die dies died rape beer wine gun guns shot shots shoot war wars stab god jesus gay hell crap aids bride jail stole
steal rob hurt hurts pain pains butt ass kiss kissed lord holy fat white black bar pub wife hang hanged cigarette
smoke smoking
"""
UNSAFE = re.compile(rf"\b(?:{'|'.join(UNSAFE_STEMS.split())})|\b(?:{'|'.join(UNSAFE_WORDS.split())})\b", re.IGNORECASE)
META = re.compile(
    r"\b(sentence|sentences|paragraph|essay|topic|list|lists|following|example|examples|text|article|author"
    "|reader|assistant|"
    r"prompt|question|AI|language model|above|listed|story|stories|poem|quiz|exercise|grammar|word|words|etc|title)\b",
    re.IGNORECASE,
)


def sample(raw: Path, rounds: int) -> None:
    """Append one JSON line per batch to `raw`; a batch already there is skipped."""
    import torch
    from tqdm import tqdm
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from taste_min import assets

    folder = assets.fetch("smollm2")
    name = next(folder.glob("*.gguf")).name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name).to(torch.bfloat16).eval()
    tokenizer.pad_token = tokenizer.eos_token
    examples = re.split(r"[|\n]", EXAMPLES)
    done = sum(1 for _ in raw.open()) if raw.exists() else 0
    for index in tqdm(range(done, rounds), initial=done, total=rounds, unit="batch"):
        rng = random.Random(f"{SEED}-{index}")
        torch.manual_seed(rng.randrange(2**31))
        starts = [" ".join(sentence(rng).split()[: rng.randint(4, 7)]).rstrip(".?") for _ in range(BATCH)]
        text = ["Some simple, clear sentences:\n" + "\n".join([*rng.sample(examples, 2), start]) for start in starts]
        batch = tokenizer(text, return_tensors="pt", padding=True)
        with torch.inference_mode():
            tokens = model.generate(
                **batch,
                do_sample=True,
                temperature=TEMPERATURE,
                top_k=TOP_K,
                max_new_tokens=NEW_TOKENS,
                pad_token_id=tokenizer.pad_token_id,
            )[:, batch.input_ids.shape[1] :]
            endings = tokenizer.batch_decode(tokens, skip_special_tokens=True)
            lines = [
                (start + ending.split("\n")[0], "completed") for start, ending in zip(starts, endings, strict=True)
            ]
            lines += [(sentence(rng), "grammar") for _ in range(GRAMMAR_PER_BATCH)]
            scores = [s for i in range(0, len(lines), 64) for s in score(model, tokenizer, lines[i : i + 64])]
        rows = [[line, source, round(value, 3)] for (line, source), value in zip(lines, scores, strict=True)]
        with raw.open("a") as file:
            file.write(json.dumps(rows) + "\n")


def score(model, tokenizer, lines: list[tuple[str, str]]) -> list[float]:
    """Mean log-probability per token (nats) of each line on its own, after a line break."""
    import torch

    batch = tokenizer(["\n" + line for line, _ in lines], return_tensors="pt", padding=True)
    log_p = model(**batch).logits[:, :-1].log_softmax(-1, dtype=torch.float32)
    picked = log_p.gather(-1, batch.input_ids[:, 1:, None])[..., 0]  # (lines, tokens - 1)
    mask = batch.attention_mask[:, :-1].float()  # the token before is real, so this one is predicted from text
    return ((picked * mask).sum(1) / mask.sum(1)).tolist()


def clean(line: str) -> str | None:
    """The first sentence of a sampled line, or None when it breaks a rule."""
    line = line.replace("\u2019", "'").strip().lstrip("-*\u2022 ").strip()
    line = re.sub(r"^\d+[.)] *", "", line)
    found = re.match(r"[A-Z][A-Za-z', ]+[.?]", line)
    if not found:
        return None
    sentence = re.sub(r" +", " ", found.group())
    words = sentence[:-1].replace(",", "").split()
    if not 5 <= len(words) <= 20 or UNSAFE.search(sentence) or META.search(sentence):
        return None
    if any(word[0].isupper() and word not in CAPITALS for word in words[1:]):
        return None
    if re.search(r"[,']{2}| '|' |\w ,|,\w|\b(\w+) \1\b", sentence) or sentence.count(",") > 2 or " ," in sentence:
        return None
    first = words[0].lower()
    if sentence.endswith("?") and first not in QUESTION | MAYBE_QUESTION:
        return None
    if sentence.endswith(".") and first in QUESTION:
        return None
    content = Counter(word.lower() for word in words if len(word) > 3)
    if max(content.values(), default=0) > 1 or Counter(word.lower() for word in words).most_common(1)[0][1] > 3:
        return None
    return sentence


def select(raw: Path) -> dict[str, str]:
    """sentence -> source: filtered, the oddest dropped, without near-duplicates."""
    from taste_min.align import in_dictionary

    best: dict[str, dict[str, float]] = {"completed": {}, "grammar": {}}
    for row in raw.open():
        for line, source, value in json.loads(row):
            text = clean(line)
            if text and all(in_dictionary(word) for word in words_of(text)):
                best[source][text] = value
    chosen = dict.fromkeys(re.split(r"[|\n]", EXAMPLES), "written")
    shingles = {gram for text in chosen for gram in grams(text)}
    for source, candidates in best.items():
        kept = sorted(candidates, key=lambda text: -candidates[text])[: int(len(candidates) * KEEP_SHARE[source])]
        print(f"{source}: {len(candidates)} candidates, {len(kept)} after scoring", file=sys.stderr)
        chosen |= dict.fromkeys(diverse(kept, TARGET[source], shingles), source)
    return chosen


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def grams(text: str) -> set[tuple[str, ...]]:
    """Runs of five words: two sentences that share one are near-duplicates."""
    words = words_of(text)
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def diverse(sentences: list[str], target: int, shingles: set) -> list[str]:
    """Up to `target` sentences without near-duplicates, those with rare words first (adds to `shingles`)."""
    frequency = Counter(word for text in sentences for word in set(words_of(text)))
    starts, chosen = Counter(), []
    for text in sorted(sentences, key=lambda text: min(frequency[word] for word in words_of(text))):
        start = tuple(words_of(text)[:3])
        if starts[start] >= MAX_PER_START or grams(text) & shingles:
            continue
        chosen.append(text)
        shingles |= grams(text)
        starts[start] += 1
        if len(chosen) == target:
            break
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--raw", type=Path, required=True, help="file that keeps the unfiltered samples (JSON lines)")
    parser.add_argument("--batches", type=int, default=57)
    args = parser.parse_args()
    sample(args.raw, args.batches)
    source = select(args.raw)
    sentences = sorted(source)
    random.Random(SEED).shuffle(sentences)
    shares = ", ".join(f"{count} {name}" for name, count in Counter(source.values()).most_common())
    header = (
        f"# {len(sentences)} sentences of the mini corpus, made by tools/make_sentences.py (seed {SEED}): {shares}.\n"
    )
    lines = (f"{source[text]}\t{text}\n" for text in sentences)
    OUT.write_text(header + "".join(lines))
    words = [word for text in sentences for word in words_of(text)]
    print(f"{shares}; {len(words)} words, {len(set(words))} different", file=sys.stderr)


if __name__ == "__main__":
    main()
