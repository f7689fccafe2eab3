"""Language models on the project's spoken stories and questions and its written choices (claims 8 to 10).

Stories. The paper compares the likelihood of the story with either ending, text and codes together. As the released
system scores an utterance, the score here is the training loss of the whole story without divergence: nats per text
token, and loss per word of codes, each with its weight. The endings of one story differ by a word at most, so dividing
by length matters little. The sentences were spoken one by one; their tokens, codes and units follow each other.

Choices. The beginning is given, each ending has its nats per token, the smallest should be the right one.

Questions. The paper's prompt: three written questions with answers, the spoken question, "A:". The most likely text is
taken until the line ends. A reply is right when an accepted answer is in it, word by word, after normalisation.

Axes: S stories, n items, N text tokens, W words, R quantiser layer, U units.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from taste_min.data import FeatureStore
from taste_min.errors import TasteError
from taste_min.generate import Prompt, generate
from taste_min.joint_sampler import JointSampling, sampler_tables
from taste_min.llama import text_logits
from taste_min.metrics import normalize
from taste_min.objectives_taslm import LanguageObjective, TaslmObjective
from taste_min.taslm import Taslm
from taste_min.taslm_layout import IGNORE, collate
from taste_min.unit_lm import collate_units

from .spoken_sets import Choice, Question, Story
from .taslm_eval import row_sums, text_losses

EVEN = "even"  # style of the sentences of stories and of the questions in the store
EXAMPLES = (("What is the color of snow?", "White"), ("How many wheels does a car have?", "Four"))
EXAMPLES += (("Which animal gives us wool?", "The sheep"),)
REPLY_TOKENS, TOGETHER = 10, 8  # of a reply at most; prompts that are continued at a time


def spoken(store: FeatureStore) -> dict[str, int]:
    """Rows of the sentences and questions, by their text."""
    return {row["text"]: i for i, row in enumerate(store.rows) if row["style"] == EVEN}


def check_units(store: FeatureStore, stories: Sequence[Story]) -> None:
    """Raises TasteError when a sentence of the stories has no units."""
    rows = spoken(store)
    if not all(store.rows[rows[text]]["n_runs"] for s in stories for text in (*s.context, s.right, s.wrong)):
        raise TasteError("the stories have no units; extract them without --no-units.")


def spoken_stories(store: FeatureStore, stories: Sequence[Story]) -> list[Story]:
    """Those of which every sentence was spoken."""
    rows = spoken(store)
    return [story for story in stories if {*story.context, story.right, story.wrong} <= rows.keys()]


def sequence(store: FeatureStore, rows: Sequence[int]) -> dict[str, torch.Tensor]:
    """token_ids, word_ids (N,), codes (W, R) and units (U,) of utterances that follow each other."""
    names = ("token_ids", "word_ids", "codes", "units")
    parts = [{name: store.tensor(i, name).long() for name in names} for i in rows]
    before = 0
    for part in parts:
        part["word_ids"] = part["word_ids"] + before
        before += len(part["codes"])
    return {name: torch.cat([part[name] for part in parts]) for name in names}


def story_sums(
    objective: LanguageObjective, store: FeatureStore, stories: Sequence[Story], other_contexts: bool = False
) -> np.ndarray:
    """(S, 2, 4): the columns of `utterance_losses` for every story with its right and with its wrong ending.

    other_contexts: each story's endings after the context of the next pair of twins, a control.
    """
    rows, contexts = spoken(store), [story.context for story in stories]
    contexts = contexts[2:] + contexts[:2] if other_contexts else contexts
    objective.eval()
    table = []
    for story, context in zip(stories, contexts, strict=True):
        told = [sequence(store, [rows[text] for text in (*context, end)]) for end in (story.right, story.wrong)]
        if isinstance(objective, TaslmObjective):
            layouts = [objective.model.layout(s["token_ids"], s["word_ids"], s["codes"]) for s in told]
            batch = objective.hide(collate(layouts))
        else:
            batch = collate_units([(s["token_ids"], s["units"]) for s in told], objective.model.config.sos_id)
        table.append(row_sums(objective, batch))
    return np.array(table)


def prefers_right(sums: np.ndarray, text_weight: float, code_weight: float) -> np.ndarray:
    """(S, 2, 4) -> (S,): 1 where the right ending has the smaller loss, 0 where the larger, .5 for a tie."""
    counts = sums[..., 1::2]
    means = np.divide(sums[..., ::2], counts, out=np.zeros_like(counts), where=counts > 0)  # (S, 2, text and codes)
    right, wrong = (means @ [text_weight, code_weight]).T
    return (right < wrong) + 0.5 * (right == wrong)


def prefers_right_in_writing(model: Taslm, stories: Sequence[Story]) -> np.ndarray:
    """(S,): the same for the text model as it was before training, on the written stories."""
    texts = [" ".join((*story.context, end)) for story in stories for end in (story.right, story.wrong)]
    sums = text_losses(model, texts, adapted=False).reshape(-1, 2, 2)
    return prefers_right(np.concatenate([sums, np.zeros_like(sums)], axis=2), 1.0, 0.0)


@torch.no_grad()
def chooses_right(model: Taslm, choices: Sequence[Choice], adapted: bool) -> np.ndarray:
    """(n,): 1 where the right ending of a choice is the most likely per token. adapted: with LoRA, or as before."""

    def tokens(text: str) -> list[int]:
        return model.tokenizer.encode(text, add_special_tokens=False).ids

    chosen = []
    for choice in choices:
        start = [model.config.sos_id, *tokens(choice.beginning)]
        rows = [torch.tensor(start + tokens(f" {ending}")) for ending in choice.endings]
        ids = pad_sequence(rows, batch_first=True, padding_value=IGNORE)
        if adapted:
            logits = text_logits(model.llm, ids)
        else:
            with model.language_model.disable_adapter():
                logits = text_logits(model.llm, ids)
        first = len(start) - 1  # the position that predicts the first token of the ending
        labels = ids[:, first + 1 :]
        nats = F.cross_entropy(logits[:, first:-1].mT, labels, ignore_index=IGNORE, reduction="none").sum(1)
        chosen.append(float((nats / (labels >= 0).sum(1)).argmin() == 0))
    return np.array(chosen)


def frame(model: Taslm) -> tuple[torch.Tensor, torch.Tensor]:
    """Text tokens before the question, with the start token, and after it."""
    examples = "".join(f"Q: {question}\nA: {answer}\n\n" for question, answer in EXAMPLES)
    before, after = (model.tokenizer.encode(text, add_special_tokens=False).ids for text in (examples + "Q:", "\nA:"))
    return torch.tensor([model.config.sos_id, *before]), torch.tensor(after)


def replies(model: Taslm, store: FeatureStore, questions: Sequence[Question]) -> list[str]:
    """What the model answers to every spoken question."""
    rows, (before, after) = spoken(store), frame(model)
    told = [sequence(store, [rows[question.text]]) for question in questions]
    return continued(model, [Prompt(s["token_ids"], s["word_ids"], s["codes"], before, after) for s in told])


def reply_without_question(model: Taslm) -> str:
    """What it answers when the question is left out of the prompt."""
    return continued(model, [Prompt(torch.cat(frame(model)))])[0]


def continued(model: Taslm, prompts: Sequence[Prompt]) -> list[str]:
    """The most likely text after each prompt, until the line ends."""
    newline = model.tokenizer.encode("\n", add_special_tokens=False).ids[0]
    tables = sampler_tables(model.tokenizer, model.config.llm.vocab_size)
    sampling = JointSampling(extra_words=REPLY_TOKENS, max_tokens=REPLY_TOKENS, top_p=0.0, stop_id=newline)
    made = [
        generation
        for start in range(0, len(prompts), TOGETHER)
        for generation in generate(model, list(prompts[start : start + TOGETHER]), tables, sampling)
    ]
    return [" ".join(generation.words(model.tokenizer)) for generation in made]


@torch.no_grad()
def written_replies(model: Taslm, questions: Sequence[Question]) -> list[str]:
    """What the text model answered before training, to the written questions."""
    before, after = frame(model)
    found = []
    for question in questions:
        asked = model.tokenizer.encode(f" {question.text}", add_special_tokens=False).ids
        ids = torch.cat([before, torch.tensor(asked), after])[None]
        with model.language_model.disable_adapter():
            made = model.llm.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=REPLY_TOKENS, do_sample=False, pad_token_id=0
            )
        found.append(model.tokenizer.decode(made[0, ids.shape[1] :].tolist()).strip().split("\n")[0])
    return found


def is_right(reply: str, answers: Sequence[str]) -> bool:
    """Whether one of the answers is in the reply, as whole words."""
    said = f" {normalize(reply)} "
    return any(f" {normalize(answer)} " in said for answer in answers)
