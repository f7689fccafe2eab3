"""Items that spoken language models are judged on: stories, questions, pairs of recordings (paper section 4.2).

The folder `sets` holds the project's own, written for it. The published ones are read where they lie:

    SALMon        FOLDER/<task>/sample_<number>_<0|1>.wav, 0 is the consistent one; or one of the task folders
    StoryCloze    a csv file with InputSentence1..4, RandomFifthSentenceQuiz1, 2 and AnswerRightEnding
    sSC, tSC      FOLDER/<number>_<name>.wav in the order that the benchmark's readers take: by number, two files a
                  story, the right ending first; the whole story is spoken in each
    WebQuestions  json: a list with utterance and targetValue, or with question and answers; json lines too
    LLaMA-Questions, and WebQuestions as OpenAudioBench speaks it
                  csv: Questions, Answer (or question, answers), maybe audio_filename in the folder audios beside

Axes: none; this module handles files.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from textwrap import shorten
from typing import NamedTuple, TypeVar

from taste_min.errors import TasteError

SETS = Path(__file__).with_name("sets")
LISP_ANSWER = re.compile(r'\(description (?:"((?:[^"\\]|\\.)*)"|([^)]*))\)')  # of WebQuestions' targetValue
QUESTION_NAMES = ("question", "Questions", "utterance")
ANSWER_NAMES = ("answers", "Answer", "targetValue")
Item = TypeVar("Item")


class Story(NamedTuple):
    """context: its first sentences. Of stories with the same `twin` each has the other's right ending as wrong one."""

    context: tuple[str, ...]
    right: str
    wrong: str
    twin: str


class Choice(NamedTuple):
    """The beginning of a sentence and what may follow; the first ending is right."""

    beginning: str
    endings: tuple[str, ...]


class Question(NamedTuple):
    """A question with the answers that are accepted; audio: a recording of it."""

    text: str
    answers: tuple[str, ...]
    audio: Path | None = None


class RecordingPair(NamedTuple):
    """Two recordings of which a model should expect the right one more. task: of SALMon, or the folder's name."""

    task: str
    right: Path
    wrong: Path


def own_stories(n_twins: int | None = None) -> list[Story]:
    """The project's stories, two for each of the first `n_twins` lines of sets/stories.tsv, in simple words.

    Two stories share their first two sentences and both endings; what is right in one is wrong in the other. So no
    ending can be told by itself: whoever has not heard the context is right in half of them.
    """
    stories = []
    for number, row in enumerate(_table(SETS / "stories.tsv", "\t")[:n_twins]):
        beginning, endings = (row["first"], row["second"]), (row["ending_a"], row["ending_b"])
        stories.append(Story((*beginning, row["third_a"], row["fourth_a"]), *endings, str(number)))
        stories.append(Story((*beginning, row["third_b"], row["fourth_b"]), *endings[::-1], str(number)))
    return stories


def own_questions() -> list[Question]:
    """The project's questions: general knowledge with short answers, in the manner of LLaMA-Questions."""
    return [Question(row["question"], tuple(row["answers"].split("|"))) for row in _table(SETS / "questions.tsv", "\t")]


def own_choices() -> list[Choice]:
    """The project's multiple-choice set: beginnings of everyday sentences with one right and three wrong last words."""
    rows = _table(SETS / "choices.tsv", "\t")
    return [Choice(row["beginning"], (row["right"], *(row[f"wrong_{i}"] for i in (1, 2, 3)))) for row in rows]


def salmon(folder: str | Path) -> list[RecordingPair]:
    """The pairs of all tasks in `folder`, or of the one task that it is. Raises TasteError for missing partners."""
    folder = _folder(folder)
    pairs = []
    for task in sorted({path.parent for pattern in ("*.wav", "*/*.wav") for path in folder.glob(pattern)}):
        samples: dict[int, dict[str, Path]] = {}
        for path in task.glob("*.wav"):
            name = re.fullmatch(r"sample_(\d+)_(\d+)", path.stem)
            if name is None:
                raise TasteError(f"{path} is not named sample_<number>_<0 or 1>.wav; unpack SALMon again.")
            samples.setdefault(int(name[1]), {})[name[2]] = path
        for number, options in sorted(samples.items()):
            if set(options) != {"0", "1"}:
                raise TasteError(f"sample {number} in {task} has not two recordings; unpack SALMon again.")
            pairs.append(RecordingPair(task.name, options["0"], options["1"]))
    return _found(pairs, f"there are no recordings of SALMon in {folder}; name the folder that holds its tasks.")


def story_cloze(path: str | Path) -> list[Story]:
    """The stories of a StoryCloze file with answers. Raises TasteError when it is none."""

    def story(row: dict[str, str]) -> Story:
        endings = row["RandomFifthSentenceQuiz1"], row["RandomFifthSentenceQuiz2"]
        answer = row["AnswerRightEnding"]
        if answer not in ("1", "2"):
            raise ValueError(f"AnswerRightEnding is {answer!r}")
        context = tuple(row[f"InputSentence{i}"].strip() for i in (1, 2, 3, 4))
        right, wrong = endings if answer == "1" else endings[::-1]
        return Story(context, right.strip(), wrong.strip(), row["InputStoryid"])

    return _read(path, "a StoryCloze csv with answers", lambda: map(story, _table(Path(path), ",")))


def spoken_story_cloze(folder: str | Path) -> list[RecordingPair]:
    """The pairs of sSC or tSC. Raises TasteError when the files are not numbered or one is left over."""
    folder = _folder(folder)
    numbered: dict[int, Path] = {}
    for path in sorted(folder.glob("*.wav")):
        name = re.match(r"\d+(?=_)", path.stem)
        if name is None or int(name[0]) in numbered:
            raise TasteError(f"{path} does not begin with a number of its own and _; unpack the spoken stories again.")
        numbered[int(name[0])] = path
    files = [numbered[number] for number in sorted(numbered)]
    if len(files) % 2:
        raise TasteError(f"{folder} has {len(files)} recordings, which are not pairs; unpack the spoken stories again.")
    pairs = [RecordingPair(folder.name, *files[i : i + 2]) for i in range(0, len(files), 2)]
    return _found(pairs, f"there are no recordings in {folder}; name the folder of sSC or tSC.")


def questions(path: str | Path) -> list[Question]:
    """The questions of a WebQuestions or LLaMA-Questions file. Raises TasteError when it is none."""
    path = Path(path)

    def question(row: dict) -> Question:
        text = next((row[name] for name in QUESTION_NAMES if name in row), None)
        given = next((row[name] for name in ANSWER_NAMES if name in row), None)
        if isinstance(given, str):
            lisp = [a.replace('\\"', '"') or b for a, b in LISP_ANSWER.findall(given)]
            given = lisp or given.split(";")
        answers = tuple(answer.strip() for answer in given or () if answer.strip())
        if not text or not text.strip() or not answers:
            raise ValueError("a question without text or answer")
        audio = path.parent / "audios" / row["audio_filename"] if row.get("audio_filename") else None
        return Question(text.strip(), answers, audio)

    def rows() -> Iterable[dict]:
        if path.suffix in (".csv", ".tsv"):
            return _table(path, "," if path.suffix == ".csv" else "\t")
        content = path.read_text(encoding="utf-8")
        return json.loads(content) if content.lstrip()[:1] == "[" else map(json.loads, content.splitlines())

    return _read(path, "a file of questions with answers", lambda: map(question, rows()))


def _table(path: Path, delimiter: str) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, delimiter=delimiter))
    if any(None in row or None in row.values() for row in rows):
        raise ValueError("a line has too few or too many columns")
    return rows


def _read(path: str | Path, what: str, items: Callable[[], Iterable[Item]]) -> list[Item]:
    try:
        return _found(list(items()), f"{path} is empty; name {what}.")
    except KeyError as error:
        raise TasteError(f"{path} has no column {error}; name {what}.") from error
    except OSError as error:
        raise TasteError(f"{path} cannot be read ({error.strerror}); name {what}.") from error
    # JSON errors are ValueErrors; JSON may hold anything, nested without end
    except (TypeError, ValueError, AttributeError, RecursionError, csv.Error) as error:
        raise TasteError(f"{path} is damaged ({shorten(str(error), 99)}); name {what}.") from error


def _folder(folder: str | Path) -> Path:
    if not Path(folder).is_dir():
        raise TasteError(f"{folder} is not a folder; name the one that the recordings were unpacked in.")
    return Path(folder)


def _found(items: list[Item], message: str) -> list[Item]:
    if not items:
        raise TasteError(message)
    return items
