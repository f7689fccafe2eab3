"""Stories, choices and questions of one trained model after another, and the differences that the claims name.

Axes: S stories, n items.
"""

from collections.abc import Callable

import numpy as np

from taste_min.data import FeatureStore
from taste_min.objectives_taslm import LanguageObjective
from taste_min.taslm import Taslm

from . import set_scores as sets
from .spoken_sets import own_choices, own_questions, own_stories
from .taslm_eval import share

CHOOSING = ("token", "embedding", "no_kl", "text_alone")  # models that read plain text
ANSWERING = "embedding"  # the claim about questions is judged on the variant that the paper asked
BEFORE = "text_model"  # the text model as it was before training
ENOUGH = 100  # stories, as the claim asks; what was only begun to be spoken is not judged


class SetReport:
    """put: records an interval under a name. Without a store only what is written is judged."""

    def __init__(self, store: FeatureStore | None, put: Callable, unit_stories: int | None = None):
        """unit_stories: the unit model, which is slow, is judged on the first so many."""
        self.store, self.put, self.unit_stories = store, put, unit_stories
        spoken = sets.spoken_stories(store, own_stories()) if store else []
        self.stories = spoken if len(spoken) >= ENOUGH else []
        self.questions = [q for q in own_questions() if q.text in sets.spoken(store)] if store else []
        self.choices, self.twins = own_choices(), [story.twin for story in self.stories]
        self.told, self.chosen, self.replies = {}, {}, {}  # by model: (S,), (n,), one reply per question

    def check_units(self) -> None:
        """Raises TasteError when the unit model could not be judged; better before hours of work than after."""
        if self.stories:
            sets.check_units(self.store, self.stories[: self.unit_stories])

    def measure(self, name: str, objective: LanguageObjective) -> None:
        """Everything that a model can be judged on."""
        if name in CHOOSING:
            if BEFORE not in self.chosen:
                self._measure_before(objective.model)
            self.chosen[name] = sets.chooses_right(objective.model, self.choices, adapted=True)
        if self.stories and name != "no_kl":
            some = self.stories[: self.unit_stories] if name == "units" else self.stories
            self._tell(name, objective, sets.story_sums(objective, self.store, some))
            if name == "embedding":
                sums = sets.story_sums(objective, self.store, self.stories, other_contexts=True)
                self._tell("shuffled", objective, sums)
        if self.questions and name in ("token", "embedding"):
            self.replies[name] = sets.replies(objective.model, self.store, self.questions)
            if name == ANSWERING:
                self.replies["no_question"] = [sets.reply_without_question(objective.model)] * len(self.questions)

    def _measure_before(self, model: Taslm) -> None:
        self.chosen[BEFORE] = sets.chooses_right(model, self.choices, adapted=False)
        if self.stories:
            self.told[BEFORE] = sets.prefers_right_in_writing(model, self.stories)
            self.put(f"{BEFORE}_story_pairs", share(self.told[BEFORE], self.twins), n=len(self.stories))
        if self.questions:
            self.replies[BEFORE] = sets.written_replies(model, self.questions)

    def _tell(self, name: str, objective: LanguageObjective, sums: np.ndarray) -> None:
        """Also what text and codes say by themselves."""
        weights = objective.model.config.text_weight, objective.model.config.taste_weight
        self.told[name] = sets.prefers_right(sums, *weights)
        alone = {"by_text": sets.prefers_right(sums, 1.0, 0.0), "by_codes": sets.prefers_right(sums, 0.0, 1.0)}
        facts = {part: float(chosen.mean()) for part, chosen in alone.items()}
        self.put(f"{name}_story_pairs", share(self.told[name], self.twins[: len(sums)]), n=len(sums), **facts)

    def compare(self) -> None:
        """The differences between models, and all that is measured in the end."""
        for a, b in (("token", "units"), ("embedding", "units"), ("token", "embedding")):
            if {a, b} <= self.told.keys():
                n = min(len(self.told[a]), len(self.told[b]))
                difference = self.told[a][:n] - self.told[b][:n]
                self.put(f"{a}_minus_{b}_story_pairs", share(difference, self.twins[:n]), n=n)
        items = [choice.beginning for choice in self.choices]
        for name, chosen in self.chosen.items():
            self.put(f"multiple_choice_{name}", share(chosen, items), n=len(items))
            if name != BEFORE:
                self.put(f"multiple_choice_{name}_minus_{BEFORE}", share(chosen - self.chosen[BEFORE], items))
        asked = [question.text for question in self.questions]
        marks = {
            name: np.array([float(sets.is_right(*pair)) for pair in zip(said, self._answers(), strict=True)])
            for name, said in self.replies.items()
        }
        for name, mark in marks.items():
            self.put(f"qa_accuracy_{name}", share(mark, asked), n=len(asked))
        if ANSWERING in marks:
            self.put("qa_accuracy_minus_no_question", share(marks[ANSWERING] - marks["no_question"], asked))

    def _answers(self) -> list[tuple[str, ...]]:
        return [question.answers for question in self.questions]

    def said(self) -> dict[str, dict[str, str]]:
        """By model: question -> reply."""
        return {
            name: {question.text: reply for question, reply in zip(self.questions, said, strict=True)}
            for name, said in self.replies.items()
        }
