"""tools/score_sets.py on small folders in the published form, with tiny models in place of real ones."""

import json

import pytest
import score_sets
import soundfile
from fake_taste import speech, tiny_taste
from test_set_scores import letters_and_lines

from taste_min.audio import SAMPLE_RATE
from taste_min.errors import TasteError
from taste_min.stages import STAGES
from taste_min.train import build_objective


@pytest.fixture
def joint(monkeypatch):
    """A tiny joint model on the codes of a tiny tokenizer."""
    model = build_objective(STAGES["taslm_token"], "tiny", 0).eval().model
    model.tokenizer = letters_and_lines()
    made = score_sets.Joint(tiny_taste(), model)
    monkeypatch.setattr(score_sets.Joint, "load", classmethod(lambda cls, name: made))
    return made


def run(capsys, *words) -> dict:
    score_sets.main([str(word) for word in words])
    return json.loads(capsys.readouterr().out)


def write(path, seed: int) -> None:
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, speech(1.0, seed).numpy() * 0.5, SAMPLE_RATE)


def test_pairs_of_recordings_are_judged_by_task(joint, tmp_path, capsys):
    for i in range(4):
        write(tmp_path / "rir_consistency" / f"sample_{i // 2}_{i % 2}.wav", i)
    entry = run(capsys, "salmon", tmp_path)["rir_consistency"]
    assert entry["n"] == 2 and 0 <= entry["low"] <= entry["value"] <= 1

    class Louder:
        def loss(self, wav, text=None):
            return -float(wav.square().mean())

    for i in range(4):
        soundfile.write(tmp_path / f"{i}_x.wav", (0.4 - 0.1 * i) * speech(1.0).numpy(), SAMPLE_RATE)
    pairs = score_sets.spoken_sets.spoken_story_cloze(tmp_path)
    assert score_sets.judge_pairs(Louder(), pairs)[tmp_path.name]["value"] == 1.0


def test_written_stories_and_spoken_questions_are_judged(joint, tmp_path, capsys):
    names = [*(f"InputSentence{i}" for i in (1, 2, 3, 4)), "RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2"]
    lines = [",".join(["InputStoryid", *names, "AnswerRightEnding"])]
    lines += [f"{i},he ran,he sat,he won,he lost,he slept,he sang,{1 + i % 2}" for i in range(4)]
    (tmp_path / "stories.csv").write_text("\n".join(lines) + "\n")
    results = run(capsys, "stories", tmp_path / "stories.csv", "--limit", 3)
    assert results["before"] == results["adapted"] and results["before"]["n"] == 3

    write(tmp_path / "audios" / "a.wav", 0)
    table = tmp_path / "questions.csv"
    table.write_text("Questions,Answer,audio_filename\nwho?,he,a.wav\nwhat?,it,a.wav\n")
    assert run(capsys, "questions", table)["accuracy"]["n"] == 2
    table.write_text("Questions,Answer\nwho?,he\n")
    with pytest.raises(TasteError, match="no recordings"):
        run(capsys, "questions", table)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "twist:x"], "needs the folder"),
        (["--model", "spiritlm:x", "--units", "y", "--pitch", "z"], "together"),
    ],
)
def test_unit_models_need_their_tokenizers(tmp_path, words, message):
    for i in range(2):
        (tmp_path / f"sample_0_{i}.wav").touch()
    with pytest.raises(TasteError, match=message):
        score_sets.main(["salmon", str(tmp_path), *words])
