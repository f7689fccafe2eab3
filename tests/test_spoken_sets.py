"""Sets of stories, questions and pairs: the project's own, and small files in the layout of the published ones."""

import json
import re

import pytest
from experiments.spoken_sets import (
    Question,
    Story,
    own_choices,
    own_questions,
    own_stories,
    questions,
    salmon,
    spoken_story_cloze,
    story_cloze,
)

from taste_min.align import in_dictionary
from taste_min.corpus import sentences
from taste_min.errors import TasteError

STORIES = own_stories()
HEADER = "InputStoryid,InputSentence1,InputSentence2,InputSentence3,InputSentence4,RandomFifthSentenceQuiz1,"
HEADER += "RandomFifthSentenceQuiz2,AnswerRightEnding\n"


def test_stories_are_many_and_in_short_plain_sentences():
    assert len(STORIES) >= 100 and all(len(story.context) == 4 for story in STORIES)
    spoken = {sentence for story in STORIES for sentence in (*story.context, story.right, story.wrong)}
    assert all(5 <= len(sentence.split()) <= 9 for sentence in spoken)
    assert all(re.fullmatch(r"[A-Z][A-Za-z', ]*[.?]", sentence) for sentence in spoken)
    assert all(in_dictionary(word) for sentence in spoken for word in re.findall(r"[a-z']+", sentence.lower()))
    assert not spoken & {sentence for part in sentences().values() for sentence in part}


def test_no_ending_can_be_told_without_its_story():
    """Every ending is right in one story and wrong in its twin, so any preference among endings is right in half."""
    assert sorted(story.right for story in STORIES) == sorted(story.wrong for story in STORIES)
    for one, other in zip(STORIES[::2], STORIES[1::2], strict=True):
        assert one.twin == other.twin and (one.right, one.wrong) == (other.wrong, other.right)
        assert one.context[:2] == other.context[:2] and one.context[2:] != other.context[2:]
        assert abs(len(one.right.split()) - len(one.wrong.split())) <= 1
    assert own_stories(3) == STORIES[:6]


def test_questions_and_choices_are_many_and_different():
    asked, choices = own_questions(), own_choices()
    assert len({question.text for question in asked}) == len(asked) >= 60
    words = [word for question in asked for word in re.findall(r"[a-z']+", question.text.lower())]
    assert all(question.answers and question.text[-1] == "?" for question in asked) and all(map(in_dictionary, words))
    assert len({choice.beginning for choice in choices}) == len(choices) >= 60
    assert all(len(set(choice.endings)) == 4 for choice in choices)


def test_salmon(tmp_path):
    for task in ("rir_consistency", "speaker_consistency"):
        (tmp_path / task).mkdir()
        for name in ("sample_10_0", "sample_10_1", "sample_2_1", "sample_2_0"):
            (tmp_path / task / f"{name}.wav").touch()
    pairs = salmon(tmp_path)
    assert [pair.task for pair in pairs] == ["rir_consistency"] * 2 + ["speaker_consistency"] * 2
    assert [(p.right.stem, p.wrong.stem) for p in pairs[:2]] == [
        ("sample_2_0", "sample_2_1"),
        ("sample_10_0", "sample_10_1"),
    ]
    assert salmon(tmp_path / "rir_consistency") == pairs[:2]
    (tmp_path / "rir_consistency" / "sample_3_0.wav").touch()
    with pytest.raises(TasteError, match="sample 3 .* two recordings"):
        salmon(tmp_path)
    (tmp_path / "rir_consistency" / "noise.wav").touch()
    with pytest.raises(TasteError, match="not named"):
        salmon(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TasteError, match="no recordings"):
        salmon(tmp_path / "empty")
    with pytest.raises(TasteError, match="not a folder"):
        salmon(tmp_path / "nowhere")


def test_story_cloze(tmp_path):
    path = tmp_path / "cloze_test_val.csv"
    path.write_text(HEADER + 'a1,"Rick, a boy, grew up.",He left.,He ran.,He sat.,He won.,He lost. ,2\n')
    assert story_cloze(path) == [
        Story(("Rick, a boy, grew up.", "He left.", "He ran.", "He sat."), "He lost.", "He won.", "a1")
    ]
    for content, reason in (
        (HEADER + "a1,a,b,c,d,e,f,3\n", "AnswerRightEnding is '3'"),
        (HEADER + "a1,a,b,c\n", "columns"),
        (HEADER, "empty"),
        ("question,answers\na,b\n", "no column 'RandomFifthSentenceQuiz1'"),
    ):
        path.write_text(content)
        with pytest.raises(TasteError, match=reason):
            story_cloze(path)
    with pytest.raises(TasteError, match="cannot be read"):
        story_cloze(tmp_path / "nowhere.csv")


def test_spoken_story_cloze(tmp_path):
    for name in ("0_a", "1_a", "2_b", "10_c", "3_b", "11_c"):
        (tmp_path / f"{name}.wav").touch()
    found = spoken_story_cloze(tmp_path)
    assert [(pair.right.stem, pair.wrong.stem) for pair in found] == [("0_a", "1_a"), ("2_b", "3_b"), ("10_c", "11_c")]
    (tmp_path / "12_d.wav").touch()
    with pytest.raises(TasteError, match="not pairs"):
        spoken_story_cloze(tmp_path)
    (tmp_path / "12_e.wav").touch()
    with pytest.raises(TasteError, match="number of its own"):
        spoken_story_cloze(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TasteError, match="no recordings"):
        spoken_story_cloze(tmp_path / "empty")


def test_web_questions_as_published_and_as_the_hub_has_them(tmp_path):
    path = tmp_path / "webquestions.examples.test.json"
    value = '(list (description "Jazmyn (a \\"J\\") Bieber") (description Vermont))'
    path.write_text(json.dumps([{"url": "u", "targetValue": value, "utterance": "what is it?"}]))
    assert questions(path) == [Question("what is it?", ('Jazmyn (a "J") Bieber', "Vermont"))]
    lines = tmp_path / "web.jsonl"
    lines.write_text(
        '{"url": "u", "question": "who?", "answers": ["A", "B"]}\n{"question": "why?", "answers": ["C"]}\n'
    )
    assert questions(lines) == [Question("who?", ("A", "B")), Question("why?", ("C",))]


def test_spoken_questions_name_their_recordings(tmp_path):
    path = tmp_path / "llama_questions.csv"
    path.write_text('Questions,Answer,audio_filename\n"What is the capital, of France?",Paris,0.mp3\n')
    want = Question("What is the capital, of France?", ("Paris",), tmp_path / "audios" / "0.mp3")
    assert questions(path) == [want]
    path.write_text("question,answers\nwho?,A; B\n")
    assert questions(path) == [Question("who?", ("A", "B"))]


@pytest.mark.parametrize(
    "content", ["[1, 2]", "{", "[]", '[{"question": "who?"}]', '[{"question": "", "answers": ["a"]}]', "[" * 9999]
)
def test_what_is_no_question_says_so(tmp_path, content):
    path = tmp_path / "q.json"
    path.write_text(content)
    with pytest.raises(TasteError, match="name a file of questions with answers"):
        questions(path)
