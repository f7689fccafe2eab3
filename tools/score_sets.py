"""Judge a language model on a published set that lies in a folder here (experiments/spoken_sets.py says in what form).

    python tools/score_sets.py salmon FOLDER
    python tools/score_sets.py spoken-stories FOLDER --model twist:FOLDER --units FOLDER
    python tools/score_sets.py stories FILE.csv --model mini-embedding
    python tools/score_sets.py questions FILE --model mini-embedding

MODEL: what `Taslm.from_pretrained` takes, twist:FOLDER or spiritlm:FOLDER; the last two need --units, and Spirit LM
Expressive --pitch and --style too. They judge pairs of recordings only. Written stories are read as text alone, by the
model as it is and as it was before its adapter. Prints JSON: shares with 95 % intervals.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from experiments import spoken_sets
from experiments.set_scores import continued, frame, is_right, prefers_right
from experiments.speech_lms import HubertUnits, PitchTokens, Scorer, SpiritLm, StyleTokens, Twist
from experiments.taslm_eval import share, text_losses

from taste_min.audio import read_audio
from taste_min.errors import TasteError
from taste_min.generate import Prompt
from taste_min.taslm import Taslm
from taste_min.taslm_files import is_adapter
from taste_min.taslm_speech import read_text
from taste_min.tokenizer import Taste


@dataclass
class Joint:
    """The joint model, which reads the codes of a recording; see `taslm_speech.score`."""

    taste: Taste
    model: Taslm

    @classmethod
    def load(cls, name: str) -> "Joint":
        return cls(Taste.from_pretrained("mini" if is_adapter(name) else name), Taslm.from_pretrained(name))

    def loss(self, wav, text: str | None = None) -> float:
        """The training loss without divergence; the text is recognised when it is not given."""
        return self.model.score(self.taste.encode(wav, text)).loss


def load(args) -> Scorer:
    """The model that the options name."""
    kind, _, folder = args.model.partition(":")
    if kind not in ("twist", "spiritlm"):
        return Joint.load(args.model)
    if args.units is None or (args.pitch is None) != (args.style is None):
        raise TasteError(f"{kind} needs the folder of its --units, and --pitch and --style only together.")
    units = HubertUnits.load(args.units)
    if kind == "twist":
        return Twist.load(folder, units)
    return SpiritLm.load(
        folder, units, args.pitch and PitchTokens.load(args.pitch), args.style and StyleTokens(args.style)
    )


def judge_pairs(scorer: Scorer, pairs: list[spoken_sets.RecordingPair]) -> dict[str, dict]:
    """By task: how often the right recording is expected more."""
    chosen: dict[str, list[float]] = {}
    for pair in pairs:
        right, wrong = (scorer.loss(read_audio(path, convert=True)) for path in (pair.right, pair.wrong))
        chosen.setdefault(pair.task, []).append((right < wrong) + 0.5 * (right == wrong))
    return {task: interval(np.array(values)) for task, values in chosen.items()}


def judge_stories(joint: Joint, stories: list[spoken_sets.Story]) -> dict[str, dict]:
    """How often the text model prefers the right ending, with its adapter and before."""
    texts = [" ".join((*story.context, end)) for story in stories for end in (story.right, story.wrong)]
    results = {}
    for name, adapted in (("adapted", True), ("before", False)):
        sums = text_losses(joint.model, texts, adapted).reshape(-1, 2, 2)
        results[name] = interval(prefers_right(np.concatenate([sums, np.zeros_like(sums)], axis=2), 1.0, 0.0))
    return results


def judge_questions(joint: Joint, questions: list[spoken_sets.Question]) -> dict[str, dict]:
    """How many spoken questions are answered, after three written examples. Raises TasteError without recordings."""
    if any(question.audio is None for question in questions):
        raise TasteError("these questions have no recordings; name a file with a column audio_filename.")
    prompts = []
    for question in questions:
        tokens = joint.taste.encode(read_audio(question.audio, convert=True))
        text = read_text(joint.model, [word.text for word in tokens.words])
        prompts.append(Prompt(text.token_ids, text.word_ids, tokens.codes, *frame(joint.model)))
    marks = [is_right(said, q.answers) for said, q in zip(continued(joint.model, prompts), questions, strict=True)]
    return {"accuracy": interval(np.array(marks, dtype=float))}


def interval(chosen: np.ndarray) -> dict:
    return asdict(share(chosen, [str(i) for i in range(len(chosen))])) | {"n": len(chosen)}


SETS: dict[str, tuple[Callable, Callable]] = {
    "salmon": (spoken_sets.salmon, judge_pairs),
    "spoken-stories": (spoken_sets.spoken_story_cloze, judge_pairs),
    "stories": (spoken_sets.story_cloze, judge_stories),
    "questions": (spoken_sets.questions, judge_questions),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("path", type=Path)
    parser.add_argument("--model", default="mini-token")
    for option in ("units", "pitch", "style"):
        parser.add_argument(f"--{option}", help="folder of this tokenizer")
    parser.add_argument("--limit", type=int, help="judge only the first so many items")
    args = parser.parse_args(argv)
    read, judge = SETS[args.set]
    items, scorer = read(args.path)[: args.limit], load(args)
    if judge is not judge_pairs and not isinstance(scorer, Joint):
        raise TasteError(f"{args.model} judges pairs of recordings only; name a joint model.")
    print(json.dumps(judge(scorer, items), indent=2))


if __name__ == "__main__":
    main()
