"""What fuzz.py feeds: every reader of the package, with the cases it gets and a check of what it returns."""

import contextlib
import functools
import io
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fuzz_inputs as inputs
import soundfile
import torch
from hypothesis import strategies as st

from taste_min import assets, cli
from taste_min.audio import read_audio
from taste_min.config import paper
from taste_min.corpus import COLUMNS, load_manifest
from taste_min.ct2 import load_whisper, read_model
from taste_min.errors import TasteError
from taste_min.export import read_part
from taste_min.features import read_manifest
from taste_min.golden import load_golden
from taste_min.recordings import read_recordings
from taste_min.released import empty
from taste_min.released_config import LLM, read_settings, taslm_config, taste_config
from taste_min.released_files import read_pickle, read_tensors, read_tokenizer
from taste_min.shards import read_shard_rows
from taste_min.speaker import GE2E
from taste_min.text import load_tokenizer
from taste_min.tokens import TasteTokens
from taste_min.train import CHECKPOINT, read_checkpoint
from taste_min.units import MiniUnits, nearest


@dataclass(frozen=True)
class Target:
    """One reader. cases: what it is fed. run: called with an empty folder and one case; also checks what it returns.

    cost: how many cheap cases one of its cases is worth. named: the message must name the file.
    """

    name: str
    cases: st.SearchStrategy
    run: Callable
    cost: int = 1
    named: bool = True


class Finding(AssertionError):
    """A case that broke the rules."""


def expect(true: bool, what: str) -> None:
    """A result that was returned must be usable."""
    if not true:
        raise Finding(f"a reader returned {what}")


def on_file(name: str, read: Callable, check: Callable = lambda result: None) -> Callable:
    """A `run` that writes the case to a file and reads that."""

    def run(folder: Path, case: bytes) -> None:
        path = folder / name
        path.write_bytes(case)
        check(read(path))

    return run


def check_audio(wav: torch.Tensor) -> None:
    expect(wav.ndim == 1 and bool(torch.isfinite(wav).all()), "odd audio")


def check_tokens(tokens: TasteTokens) -> None:
    """Everything that needs no model has to work on tokens that were read."""
    rate = tokens.bitrate()
    expect(math.isfinite(rate.total) and rate.total >= 0, "tokens without a bit rate")
    expect(all(isinstance(word.text, str) for word in tokens.words) and isinstance(tokens.text, str), "odd words")
    numbers = list(range(len(tokens.words)))
    tokens.pieces()
    tokens.swap(tokens, numbers)


def check_rows(rows: list) -> None:
    for row in rows:
        expect(math.isfinite(row.seconds) and row.seconds >= 0, f"{row.seconds} seconds")
        for word in row.words:
            text, start, end = (word.text, word.start, word.end) if hasattr(word, "text") else word
            expect(isinstance(text, str) and 0 <= start <= end < math.inf, f"the word {word}")


def check_variables(variables: dict) -> None:
    for array in variables.values():
        array.sum()


def check_units(units: MiniUnits) -> None:
    nearest((torch.zeros(2, len(units.mean)) - units.mean) @ units.projection, units.centroids)


def features_of(folder: Path, case: bytes) -> None:
    (folder / "manifest.tsv").write_bytes(case)
    check_rows(read_manifest(folder))


def recordings_of(folder: Path, case: bytes) -> None:
    soundfile.write(folder / "case.wav", inputs.tone(0.2), 16_000)
    (folder / "case.tsv").write_bytes(case)
    read_recordings(str(folder / "case.tsv"))


def checkpoint_of(folder: Path, case: tuple[bytes, str]) -> None:
    """One safetensors file and an index that may name files elsewhere."""
    (folder / "model.safetensors").write_bytes(case[0])
    (folder / "model.safetensors.index.json").write_text(case[1], encoding="utf-8", errors="replace")
    (folder.parent / "escaped.safetensors").write_bytes(inputs.save({"outside": torch.ones(1)}))
    expect("outside" not in read_tensors(folder, ("",)), "tensors of a file outside the folder")


def settings_of(folder: Path, case: str) -> None:
    """config.json, up to the sizes of all parts and the tokenizer that it names."""
    (folder / "config.json").write_text(case, encoding="utf-8", errors="replace")
    settings = read_settings(folder)
    taste_config(parts(), settings)
    taslm_config(parts(), settings)
    (folder / "tokenizer.json").write_text("{}")
    read_tokenizer(folder, settings, "asr_config", "a/b", 10)


def whisper_of(folder: Path, case: tuple[bytes, str]) -> None:
    (folder / "model.bin").write_bytes(case[0])
    (folder / "config.json").write_text(case[1], encoding="utf-8", errors="replace")
    load_whisper(folder)


def unpickle(name: str, read: Callable) -> Callable:
    """A `run` for a file that is a pickle; no code in it may run."""

    def run(folder: Path, case: bytes) -> None:
        path = folder / name
        path.write_bytes(case)
        try:
            read(path)
        finally:
            if TRAP.exists():
                TRAP.rmdir()
                raise Finding(f"{name}: code in a pickle was run")

    return run


def archive_of(folder: Path, case: tuple[str, bytes]) -> None:
    """The members that the table of assets asks for, and nothing else, below `files`."""
    files = tuple(assets.File(f"{i}.bin", 4, "", (name,)) for i, name in enumerate(WANTED))
    (folder / case[0]).write_bytes(case[1])
    (folder / "files").mkdir()
    before = {path for path in folder.parent.rglob("*") if (folder / "files") not in path.parents}
    assets._unpack(folder / case[0], assets.Asset("a", "", "", "", (), files), folder / "files")
    after = {path for path in folder.parent.rglob("*") if (folder / "files") not in path.parents}
    expect(after == before, f"{after - before} outside the folder")
    found = {path.name for path in (folder / "files").iterdir()}
    expect(found <= {file.name for file in files}, f"the files {found}")


def command_of(folder: Path, case: list[str]) -> None:
    """`taste-min` with these words, in a folder with a few good and bad files; no model can be fetched."""
    for name, data in COMMAND_FILES.items():
        (folder / name).write_bytes(data)
    (folder / "empty").mkdir()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(case)
        except SystemExit as end:  # argparse prints its own sentence
            expect(end.code in (0, 2), f"exit code {end.code}")
            return
    expect(code in (0, 1, 2), f"exit code {code}")
    if code == 2:
        message = err.getvalue().rstrip("\n").splitlines()[-1].removeprefix("taste-min: ")
        raise TasteError(message)


@functools.cache
def parts() -> dict[str, dict[str, torch.Tensor]]:
    """Tensors without memory at the released sizes; of the language model only those that say a size."""
    names = ("encoder", "aggregator", "quantizer", "unit_decoder")
    layer, meta = f"{LLM}model.layers.0.", functools.partial(torch.empty, device="meta", dtype=torch.bfloat16)
    taslm = {
        f"{LLM}model.embed_tokens.weight": meta(128256, 2048),
        f"{layer}mlp.up_proj.base_layer.weight": meta(8192, 1),
    }
    for name, rows in (("q_proj.base_layer", 2048), ("k_proj.base_layer", 512), ("q_proj.lora_A.default", 64)):
        taslm[f"{layer}self_attn.{name}.weight"] = meta(rows, 1)
    return {name: empty(name, paper()).state_dict() for name in names} | {"taslm": taslm}


# Valid files that the cases are made from.
WORDS = [{"text": "Good", "start": 0.1, "end": 0.4}, {"text": "morning.", "start": 0.4, "end": 0.9}]
META = {"text": "Good morning.", "words": WORDS, "n_text_tokens": 4, "seconds": 1.1}
TOKENS = {
    "codes": torch.zeros(2, 4, dtype=torch.int64),
    "embeddings": torch.ones(2, 8),
    "speaker_embedding": torch.ones(256) / 16,
}
UNITS = {"mean": torch.zeros(39), "projection": torch.ones(39, 4), "centroids": torch.ones(16, 4)}
UTTERANCE = {
    "id": "u1",
    "audio": "case.wav",
    "text": "Good morning.",
    "speaker": "joe",
    "rate": "1.0",
    "style": "plain",
    "split": "train",
    "seconds": "1.1",
    "words": [["Good", 0.1, 0.4], ["morning.", 0.4, 0.9]],
    "prosody": {"rate": [1.0, 1.0], "pitch": [1.0, 1.0], "gain": [0.0, 0.0]},
}
assert tuple(UTTERANCE) == COLUMNS
EDIT = {
    "audio": "case.wav",
    "text": "Good morning.",
    "id": "u1",
    "split": "test",
    "donor": "case.wav",
    "swapped": "0-1",
}
SETTINGS = {
    "model_type": "taste",
    "audio_tower_config": {
        "kwargs_for_joint_encoder_segmenter": {"target_hidden_layer": 6, "skip_prefix_idx": 4},
        "kwargs_for_quantizer": {"quantizer_class": "rvq", "decay": 0.99, "kmeans_iters": 10, "quantize_dropout": True},
    },
    "speech_decoder_config": {"llm__dropout_rate": 0.1, "lsm_weight": 0.0, "fuse_encoded_audio_text_kwargs": {}},
    "spoken_lm_config": {"loss_weights": "0.5-0.5", "sos_id": 128000, "delay": 3, "delay_level": "word"},
    "text_config": {"num_attention_heads": 32, "rope_scaling": {"rope_type": "default"}, "rms_norm_eps": 1e-5},
    "asr_config": {"_name_or_path": "."},
    "taste_min": {"latent_adds_std": True},
}
INDEX = {"weight_map": {"a": "model.safetensors", "b": "model.safetensors"}}
WHISPER = {"suppress_ids": [1, 2], "suppress_ids_begin": [220], "alignment_heads": [[0, 1]]}
TOKENIZER = {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}}
GOLDEN = {"w.weight": torch.ones(2, 2), "i.x": torch.ones(2), "o.y": torch.ones(2)}
WANTED = ("one/model.bin", "one/LICENSE")
TRAP = Path(tempfile.gettempdir()) / "taste-min-fuzz-trap"  # made by a pickle whose code was run
PICKLES = inputs.damaged(inputs.pickles(TRAP), head=200)


def table(*rows: dict) -> bytes:
    cells = [[v if isinstance(v, str) else json.dumps(v) for v in row.values()] for row in rows]
    return "".join("\t".join(line) + "\n" for line in [list(rows[0]), *cells]).encode()


COMMAND_FILES = {
    "case.wav": inputs.recordings()[0],
    "bad.wav": b"no sound",
    "manifest.tsv": table(EDIT | {"speaker": "a", "seconds": "0.1"}),
    "case.safetensors": inputs.save(TOKENS, {"taste_tokens": json.dumps(META)}),
    "case.pt": inputs.pickles(TRAP)[1],
    "result.json": b'{"run": {"judge": "a", "system": "b"}, "utterances": [{"id": "u1"}]}',
}
COMMANDS = {
    "fetch": ("--list", "--verify", "whisper-tiny-en"),
    "encode": ("-o", "--text", "--preset", "--force", "--convert"),
    "decode": ("-o", "--text-only", "--speaker", "--seed", "--force"),
    "resynth": ("-o", "--text", "--speaker", "--seed", "--preset"),
    "swap": ("-o", "--words", "--donor-words", "--text", "--speaker"),
    "corpus": ("build", "--hours", "--out", "--workers", "--voices"),
    "train": (
        "units",
        "features",
        "text_only",
        "flow",
        "--data",
        "--out",
        "--preset",
        "--init",
        "--export",
        "--resume",
    ),
    "evaluate": ("--system", "--json", "--weights", "--judge", "--split", "--limit", "--save-audio", "--compare"),
    "parity": (),
    "bench": ("--seconds", "--runs", "--preset"),
}
ARGUMENTS = (
    *COMMAND_FILES,
    "empty",
    ".",
    "..",
    "x.wav",
    "x.safetensors",
    "empty/x.json",
    "case.wav/x.wav",
    "case.wav/x",
)
ARGUMENTS += (
    "0",
    "-1",
    "nan",
    "inf",
    "1e30",
    "9" * 400,
    "0,1",
    "0-1",
    "human",
    "opus:9",
    "mini",
    "tiny",
    "original",
    "joe",
)
ARGUMENTS += ("", "--json", "--", "-", "ä", "x" * 300)


@st.composite
def words(draw) -> list[str]:
    """A command, its options in any order with any values, and often its files first."""
    name = draw(st.sampled_from(sorted(COMMANDS)))
    value = st.sampled_from(ARGUMENTS) | st.text(st.characters(codec="utf-8", exclude_characters="\0/"), max_size=6)
    argv = [name] + draw(st.lists(value, min_size=1 if name not in ("fetch", "train", "corpus") else 0, max_size=2))
    if name == "corpus":
        argv.append("build")
    if name == "train":
        argv.append(draw(st.sampled_from(("units", "features", "text_only", "flow"))))
        argv += ["--data", draw(value), "--out", draw(value)]
    if name in ("decode", "resynth", "swap"):
        argv += ["-o", draw(st.sampled_from(("x.wav", "case.wav", "empty/x.wav")) | value)]
    for option in draw(st.lists(st.sampled_from(COMMANDS[name] or ("--json",)), max_size=4)):
        argv += [option] + draw(st.lists(value, max_size=1))
    return argv


TARGETS = [
    Target(
        "audio",
        inputs.damaged(inputs.recordings()),
        on_file("case.wav", lambda p: read_audio(p, convert=True), check_audio),
    ),
    Target("audio without convert", inputs.damaged(inputs.recordings()), on_file("case.wav", read_audio, check_audio)),
    Target(
        "CTranslate2 bytes",
        inputs.damaged([inputs.ct2_bytes({k: v for k, v in inputs.whisper_variables().items() if v.numel() < 99})]),
        on_file("model.bin", read_model, check_variables),
    ),
    Target(
        "CTranslate2 Whisper",
        st.tuples(inputs.odd_tensors(inputs.whisper_variables()).map(inputs.ct2_bytes), inputs.odd_json(WHISPER)),
        whisper_of,
        cost=50,
    ),
    Target(
        "token file",
        inputs.safetensors_files(TOKENS, {"taste_tokens": META}),
        on_file("case.safetensors", TasteTokens.load, check_tokens),
    ),
    Target(
        "feature file",
        inputs.safetensors_files(
            {"0.units": torch.ones(3)}, {"rows": [{"id": "u", "split": "dev"}], "fingerprint": "f"}
        ),
        on_file("case.safetensors", read_shard_rows),
    ),
    Target(
        "units",
        inputs.safetensors_files(UNITS, {"layer": "-1"}),
        on_file("case.safetensors", MiniUnits.load, check_units),
    ),
    Target("exported part", inputs.safetensors_files(GOLDEN, {}), on_file("case.safetensors", read_part)),
    Target(
        "golden file",
        inputs.safetensors_files(GOLDEN, {"config": {"a": 1}}),
        on_file("case.safetensors", load_golden),
    ),
    Target(
        "released tensors",
        st.tuples(inputs.safetensors_files({"a": torch.ones(2), "b": torch.ones(2)}, {}), inputs.odd_json(INDEX)),
        checkpoint_of,
    ),
    Target("config.json", inputs.odd_json(SETTINGS), settings_of, named=False, cost=3),
    Target(
        "tokenizer.json",
        inputs.odd_json(TOKENIZER).map(str.encode),
        on_file("tokenizer.json", lambda p: load_tokenizer(p.parent)),
    ),
    Target("trainer's pickle", PICKLES, unpickle("case.pt", read_pickle)),
    Target("speaker encoder", PICKLES, unpickle("case.pt", GE2E.from_file), cost=3),
    Target("training checkpoint", PICKLES, unpickle(CHECKPOINT, lambda path: read_checkpoint(path.parent))),
    Target("archive", inputs.archives(WANTED), archive_of),
    Target(
        "corpus manifest",
        inputs.tables([UTTERANCE, UTTERANCE]),
        on_file("manifest.tsv", load_manifest, check_rows),
    ),
    Target("training manifest", inputs.tables([UTTERANCE, UTTERANCE]), features_of),
    Target("evaluation manifest", inputs.tables([EDIT, EDIT | {"id": "u2"}]), recordings_of, cost=3),
    Target("command line", words(), command_of, cost=3, named=False),
]
