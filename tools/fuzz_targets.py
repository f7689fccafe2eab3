"""What fuzz.py feeds: every reader of the package, with the cases it gets."""

import fuzz_files as files
import fuzz_inputs as inputs
import torch
from experiments.spoken_sets import questions
from fuzz_readers import (
    Target,
    archive_of,
    check_audio,
    check_questions,
    check_rows,
    check_tokens,
    check_units,
    check_variables,
    checkpoint_of,
    command_of,
    features_of,
    on_file,
    recordings_of,
    settings_of,
    unpickle,
    whisper_of,
)
from hypothesis import strategies as st

from taste_min.audio import read_audio
from taste_min.corpus import load_manifest
from taste_min.ct2 import read_model
from taste_min.export import read_part
from taste_min.golden import load_golden
from taste_min.released_files import read_pickle
from taste_min.shards import read_shard_rows
from taste_min.speaker import GE2E
from taste_min.text import load_tokenizer
from taste_min.tokens import TasteTokens
from taste_min.train import CHECKPOINT, read_checkpoint
from taste_min.units import MiniUnits

PICKLES = inputs.damaged(files.pickles(files.TRAP), head=200)

COMMANDS = {  # with options that each of them has
    "fetch": "--list --verify whisper-tiny-en",
    "encode": "-o --text --preset --force --convert",
    "decode": "-o --text-only --speaker --seed --force",
    "resynth": "-o --text --speaker --seed --preset",
    "swap": "-o --words --donor-words --text --speaker",
    "corpus": "--hours --out --workers --voices",
    "train": "--data --out --preset --init --export --resume --seed --steps --layers --takes",
    "evaluate": "--system --json --weights --judge --split --limit --save-audio --compare",
    "parity": "--json",
    "bench": "--seconds --runs --preset",
}
VALUES = [*files.COMMAND_FILES, "", "--json", "--", "-", "\u00e4", "x" * 300]
VALUES += [
    "empty",
    ".",
    "..",
    "x.wav",
    "x.safetensors",
    "empty/x.json",
    "case.wav/x.wav",
    "case.wav/x",
    "human",
    "original",
    "mini",
    "tiny",
    "joe",
]
VALUES += ["0", "-1", "nan", "inf", "1e30", "0,1", "0-1", "opus:9"]


@st.composite
def words(draw) -> list[str]:
    """A command, its options in any order with any values, and often its files first."""
    name = draw(st.sampled_from(sorted(COMMANDS)))
    value = st.sampled_from(VALUES) | st.text(st.characters(codec="utf-8", exclude_characters="\0/"), max_size=6)
    argv = [name] + draw(st.lists(value, min_size=1 if name not in ("fetch", "train", "corpus") else 0, max_size=2))
    if name == "corpus":
        argv.append("build")
    if name == "train":
        argv.append(draw(st.sampled_from(("units", "features", "text_only", "flow"))))
        argv += ["--data", draw(value), "--out", draw(value)]
    if name in ("decode", "resynth", "swap"):
        argv += ["-o", draw(st.sampled_from(("x.wav", "case.wav", "empty/x.wav")) | value)]
    for option in draw(st.lists(st.sampled_from(COMMANDS[name].split()), max_size=4)):
        argv += [option] + draw(st.lists(value, max_size=1))
    return argv


TARGETS = [
    Target(
        "audio",
        inputs.damaged(files.recordings()),
        on_file("case.wav", lambda p: read_audio(p, convert=True), check_audio),
    ),
    Target("audio without convert", inputs.damaged(files.recordings()), on_file("case.wav", read_audio, check_audio)),
    Target(
        "CTranslate2 bytes",
        inputs.damaged([files.ct2_bytes(files.whisper_variables(vocab_size=3))]),
        on_file("model.bin", read_model, check_variables),
    ),
    Target(
        "CTranslate2 Whisper",
        st.tuples(inputs.odd_tensors(files.whisper_variables()).map(files.ct2_bytes), inputs.odd_json(files.WHISPER)),
        whisper_of,
        cost=5,
    ),
    Target(
        "token file",
        inputs.safetensors_files(files.TOKENS, {"taste_tokens": files.META}),
        on_file("case.safetensors", TasteTokens.load, check_tokens),
    ),
    Target(
        "feature file",
        inputs.safetensors_files({"0.units": torch.ones(3)}, {"shard": {"rows": files.ROWS, "fingerprint": "f"}})
        | inputs.safetensors_files({"0.units": torch.ones(3)}, {"rows": files.ROWS, "fingerprint": "f"}),
        on_file("case.safetensors", read_shard_rows),
    ),
    Target(
        "units",
        inputs.safetensors_files(files.UNITS, {"layer": "-1"}),
        on_file("case.safetensors", MiniUnits.load, check_units),
    ),
    Target("exported part", inputs.safetensors_files(files.GOLDEN, {}), on_file("case.safetensors", read_part)),
    Target(
        "golden file",
        inputs.safetensors_files(files.GOLDEN, {"config": {"a": 1}}),
        on_file("case.safetensors", load_golden),
    ),
    Target(
        "released tensors",
        st.tuples(inputs.safetensors_files({"a": torch.ones(2), "b": torch.ones(2)}, {}), inputs.odd_json(files.INDEX)),
        checkpoint_of,
    ),
    Target("config.json", inputs.odd_json(files.SETTINGS), settings_of, named=False, cost=3),
    Target(
        "tokenizer.json",
        inputs.odd_json(files.TOKENIZER).map(str.encode),
        on_file("tokenizer.json", lambda p: load_tokenizer(p.parent)),
    ),
    Target("trainer's pickle", PICKLES, unpickle("case.pt", read_pickle)),
    Target("speaker encoder", PICKLES, unpickle("case.pt", GE2E.from_file), cost=3),
    Target("training checkpoint", PICKLES, unpickle(CHECKPOINT, lambda path: read_checkpoint(path.parent))),
    Target("archive", inputs.archives(files.WANTED), archive_of),
    Target(
        "corpus manifest",
        inputs.tables([files.UTTERANCE, files.UTTERANCE]),
        on_file("manifest.tsv", load_manifest, check_rows),
    ),
    Target("training manifest", inputs.tables([files.UTTERANCE, files.UTTERANCE]), features_of),
    Target("evaluation manifest", inputs.tables([files.EDIT, files.EDIT | {"id": "u2"}]), recordings_of, cost=3),
    Target(
        "questions",
        inputs.odd_json(files.QUESTIONS).map(str.encode),
        on_file("case.json", questions, check_questions),
    ),
    Target(
        "table of questions", inputs.tables(files.SPOKEN_QUESTIONS), on_file("case.tsv", questions, check_questions)
    ),
    Target("command line", words(), command_of, cost=3, named=False),
]
