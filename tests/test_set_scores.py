"""Stories, choices and questions on tiny models: sums of the whole story, controls, prompts, what counts as right."""

from contextlib import nullcontext
from functools import cache

import numpy as np
import pytest
import torch
from experiments import set_scores
from experiments.set_scores import (
    check_units,
    chooses_right,
    frame,
    is_right,
    prefers_right,
    prefers_right_in_writing,
    replies,
    reply_without_question,
    sequence,
    spoken,
    spoken_stories,
    story_sums,
    written_replies,
)
from experiments.spoken_sets import Choice, Question, own_stories
from experiments.taslm_eval import utterance_losses
from tokenizers import Tokenizer, decoders, models

from taste_min.data import FeatureStore
from taste_min.errors import TasteError
from taste_min.shards import write_shard
from taste_min.stages import STAGES
from taste_min.train import build_objective

STORIES = own_stories(2)
QUESTIONS = [Question("what is hot?", ("fire",)), Question("what is cold?", ("ice", "snow"))]


def letters_and_lines() -> Tokenizer:
    """One token per letter, and the end of a line."""
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(" abcdefghijklmnopqrstuvwxyz.,'?\n")}, []))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


@cache
def objective(stage: str):
    made = build_objective(STAGES[stage], "tiny", 0).eval()
    made.model.tokenizer = letters_and_lines()
    return made


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> FeatureStore:
    """Every sentence once, in words of one token, and one that was said in another style."""
    texts = list(dict.fromkeys(t for s in STORIES for t in (*s.context, s.right, s.wrong)))
    texts += [question.text for question in QUESTIONS]
    rows, tensors = [], []
    for i, text in enumerate([*texts, texts[0]]):
        g, n = torch.Generator().manual_seed(i), len(text.split())
        style = "even" if i < len(texts) else "plain"
        rows.append({"id": f"u{i}", "split": "test", "text": text, "seconds": 1.0, "style": style})
        rows[-1] |= {"n_tokens": n, "n_runs": 4 * n}
        ids, codes = torch.randint(31, (n,), generator=g), torch.randint(24, (n, 4), generator=g)
        units = torch.randint(64, (4 * n,), generator=g)
        tensors.append({"token_ids": ids.int(), "word_ids": torch.arange(n).int(), "codes": codes.short()})
        tensors[-1]["units"] = units.short()
    folder = tmp_path_factory.mktemp("sets")
    write_shard(folder / "features-00000.safetensors", rows, tensors, "x")
    return FeatureStore(folder, "test")


def test_utterances_that_follow_each_other_are_one_sequence(store):
    told = sequence(store, [0, 1])
    n = [store.rows[i]["n_tokens"] for i in (0, 1)]
    assert told["word_ids"].tolist() == list(range(sum(n))) and len(told["codes"]) == sum(n)
    assert torch.equal(told["token_ids"][n[0] :], store.tensor(1, "token_ids").long())
    assert spoken(store)[STORIES[0].context[0]] == 0
    assert spoken_stories(store, own_stories(5)) == STORIES


@pytest.mark.parametrize("stage", ["taslm_token", "taslm_embedding", "unit_lm"])
def test_a_story_is_scored_as_one_utterance(store, stage, tmp_path):
    made = objective(stage)
    sums = story_sums(made, store, STORIES)
    assert sums.shape == (4, 2, 4)
    n_words = len(" ".join((*STORIES[0].context, STORIES[0].right)).split())
    assert sums[0, 0, 1] == n_words
    texts = (*STORIES[0].context, STORIES[0].right)
    told = sequence(store, [spoken(store)[text] for text in texts])
    row = {"id": "s", "split": "test", "text": " ".join(texts), "seconds": 1.0, "n_tokens": n_words}
    row["n_runs"] = len(told["units"].unique_consecutive())
    fingerprint = made.model.quantizer.fingerprint if stage != "unit_lm" else "x"
    tensors = {name: tensor.short() for name, tensor in told.items()}
    write_shard(tmp_path / "features-00000.safetensors", [row], [tensors], fingerprint)
    np.testing.assert_allclose(sums[0, 0], utterance_losses(made, FeatureStore(tmp_path, "test"))[0], rtol=1e-4)
    # the twin has the same endings the other way round, after another context
    assert not np.allclose(sums[0, 0, [0, 2]], sums[1, 1, [0, 2]])


def test_without_its_context_an_ending_is_right_as_often_as_its_twin(store):
    sums = story_sums(objective("taslm_token"), store, STORIES, other_contexts=True)
    assert (sums[0, 0] != story_sums(objective("taslm_token"), store, STORIES)[0, 0]).any()
    deaf_to_context = np.array([[[1, 1, 0, 0], [2, 1, 0, 0]], [[2, 1, 0, 0], [1, 1, 0, 0]]], dtype=float)
    assert prefers_right(deaf_to_context, 1, 0).tolist() == [1.0, 0.0]


def test_the_unit_model_needs_units(store, monkeypatch):
    for number, named in ((0, "without --no-units"), (4, None)):
        monkeypatch.setattr(store, "rows", [row | {"n_runs": number} for row in store.rows])
        with pytest.raises(TasteError, match=named) if named else nullcontext():
            check_units(store, STORIES)


def test_weights_and_lengths_decide_and_missing_codes_do_not_count():
    sums = np.array([[[10.0, 10, 4, 2], [11.0, 10, 2, 2]]])  # text 1.0 and 1.1, codes 2 and 1
    assert prefers_right(sums, 1, 0) == 1 and prefers_right(sums, 0, 1) == 0 and prefers_right(sums, 0.5, 0.5) == 0
    assert prefers_right(sums[:, ::-1], 0.5, 0.5) == 1
    assert prefers_right(sums * [1, 1, 0, 0], 0.5, 0.5) == 1 and prefers_right(sums * 0, 0.5, 0.5) == 0.5


def test_text_alone_hears_no_codes(store):
    sums = story_sums(objective("taslm_text"), store, STORIES)
    assert (sums[..., 2:] == 0).all() and set(prefers_right(sums, 0.5, 0.5)) <= {0.0, 1.0}


def test_a_model_that_learnt_the_stories_prefers_their_endings(store):
    learnt = build_objective(STAGES["taslm_token"], "tiny", 0)
    rows = spoken(store)
    told = [sequence(store, [rows[text] for text in (*s.context, s.right)]) for s in STORIES]
    layouts = [learnt.model.layout(s["token_ids"], s["word_ids"], s["codes"]) for s in told]
    optimizer = torch.optim.AdamW([p for p in learnt.parameters() if p.requires_grad], lr=2e-2)
    for _ in range(40):
        optimizer.zero_grad()
        learnt.model(set_scores.collate(layouts)).loss.backward()
        optimizer.step()
    assert prefers_right(story_sums(learnt, store, STORIES), 0.5, 0.5).tolist() == [1.0] * 4


def test_written_choices_and_stories_before_and_after():
    model = build_objective(STAGES["taslm_token"], "tiny", 0).eval().model
    model.tokenizer = letters_and_lines()
    assert set(prefers_right_in_writing(model, STORIES)) <= {0.0, 0.5, 1.0}
    choices = [Choice("you cut bread with a", ("knife", "sock")), Choice("ice is", ("cold", "hot"))]
    before = chooses_right(model, choices, adapted=False)
    assert (chooses_right(model, choices, adapted=True) == before).all()  # LoRA starts as nothing
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    assert (chooses_right(model, choices, adapted=False) == before).all()
    turned = [Choice(c.beginning, c.endings[::-1]) for c in choices]
    assert (chooses_right(model, turned, adapted=True) == 1 - chooses_right(model, choices, adapted=True)).all()


def test_the_prompt_has_three_examples_and_the_spoken_question_between_its_text(store):
    made = objective("taslm_embedding").model
    before, after = frame(made)
    text = made.tokenizer.decode(before[1:].tolist())
    assert before[0] == made.config.sos_id and text.count("?") == 3
    assert "\n" in text and made.tokenizer.decode(after.tolist()).startswith("\n")
    said = replies(made, store, QUESTIONS)
    assert len(said) == 2 and all("\n" not in reply for reply in said)
    assert isinstance(reply_without_question(made), str)
    assert len(written_replies(made, QUESTIONS)) == 2


def test_an_answer_counts_as_whole_words_after_normalisation():
    assert is_right("It is New York.", ("new york",)) and is_right("twenty-four hours", ("twenty four", "24"))
    assert is_right("Paris", ("London", "paris"))
    assert not is_right("Parisian", ("Paris",)) and not is_right("", ("Paris",))
