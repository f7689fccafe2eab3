"""`taste-min evaluate`: run a system on a manifest, or compare two results; the result file and its resuming.

OUT holds every metric as {value, low, high} (95 % BCa bootstrap), `utterances` with the rows they derive from, and
`run` with everything needed to repeat it. An interrupted run continues from OUT.partial. Importing this module does
not import torch, because the command line reads its options.
"""

import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from .errors import TasteError
from .files import read_records, to_lines, write_whole
from .repro import commit, versions

BATCH = 8  # recordings that are decoded together; part of what a seed means


def add_arguments(parser) -> None:
    """Options of the command."""
    parser.add_argument(
        "manifest",
        nargs="?",
        metavar="MANIFEST",
        help="table with columns audio, text and optionally reference, donor, swapped; or `human`",
    )
    parser.add_argument(
        "--system",
        help="mini, text-only, no-vq, topline, topline-text, vocoder, original; opus, codec2, encodec, mimi, dac or "
        "speechtokenizer, as NAME or NAME:N with bit/s or codebooks; or a folder of another system's files",
    )
    parser.add_argument("--json", metavar="OUT", help="write the result, and resume from OUT.partial")
    parser.add_argument(
        "--weights",
        default="mini",
        help="folder of exported parts (default: the shipped ones); of a peer a folder or a hub id",
    )
    parser.add_argument(
        "--skip", nargs="+", default=[], choices=["visqol", "distillmos"], help="scores that are not computed"
    )
    parser.add_argument(
        "--judge", default="tiny.en", help="Whisper that transcribes: tiny.en or base (default: tiny.en)"
    )
    parser.add_argument("--split", help="only rows with this in the column split")
    parser.add_argument("--speaker", help="only rows with this in the column speaker")
    parser.add_argument("--limit", type=int, help="only the first so many rows")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default: 0)")
    parser.add_argument("--save-audio", metavar="DIR", help="write what the system says as FLAC files")
    parser.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="two result files: A minus B, paired by utterance"
    )


def command(args) -> int:
    """`taste-min evaluate`. Raises TasteError for bad input."""
    if args.compare:
        return _compare(*args.compare, args.json)
    if not args.manifest or not args.system:
        raise TasteError(
            "name a manifest and a --system, or two results with --compare; see taste-min evaluate --help."
        )
    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise TasteError(f"there is no folder for {args.json}; make it first.")
    result = _evaluate(args)
    _show(f"{result['run']['system']} on {result['run']['n_utterances']} recordings", result["metrics"])
    silent, lost = result["run"]["n_silent"], result["run"]["n_not_aligned"]
    if silent or lost:
        print(f"{silent} outputs are silent; in {lost} utterances the text was not found by the aligner")
    if args.json:
        rest = {"utterances": result["utterances"], "run": result["run"]}
        write_json(Path(args.json), result["metrics"] | rest)
        Path(args.json + ".partial").unlink()
    return 0


def _evaluate(args) -> dict:
    import torch
    from tqdm import tqdm

    from .audio import write_audio
    from .evaluate import aggregate, evaluate_batch
    from .judge import Judge
    from .quality import how_to_install, not_installed
    from .recordings import read_recordings
    from .repro import seed_everything
    from .speaker import load_speaker_encoder
    from .systems import System

    started, device = time.monotonic(), "cuda" if torch.cuda.is_available() else "cpu"
    absent = [score for score in not_installed() if score not in args.skip]
    for score in absent:
        print(f"left out: {how_to_install(score)}")
    args.skip = [*args.skip, *absent]
    recordings = read_recordings(args.manifest, args.split, args.speaker, args.limit)
    system = System.load(args.system, args.weights, device)
    key = _facts(args, system, device)
    partial = Partial(Path(args.json + ".partial") if args.json else None, key)
    if args.save_audio:
        Path(args.save_audio).mkdir(parents=True, exist_ok=True)
    judge, speaker_encoder = Judge.load(args.judge, device), load_speaker_encoder()
    with tqdm(total=len(recordings), initial=len(partial.rows), desc=key["system"], unit="utt") as bar:
        for start in range(len(partial.rows), len(recordings), BATCH):
            batch = recordings[start : start + BATCH]
            seed_everything(args.seed + start)
            rows, spoken = evaluate_batch(system, batch, judge, speaker_encoder, args.seed + start, args.skip)
            if args.save_audio:
                for recording, one in zip(batch, spoken, strict=True):
                    name = recording.id.replace("/", "_") + ".flac"
                    write_audio(Path(args.save_audio) / name, one.wav, one.sample_rate)
            partial.add(rows)
            bar.update(len(batch))
    rows = partial.rows
    run = key | {
        "commit": commit(),
        "versions": versions(),
        "n_utterances": len(rows),
        "n_texts": len({row["text"] for row in rows}),
        "n_silent": sum("dnsmos_p808" not in row for row in rows),
        "n_not_aligned": sum(not all(row.get("aligned", {}).values()) for row in rows),
        "n_cut_off": sum(not row.get("ended", True) for row in rows),
        "seconds": round(time.monotonic() - started, 1),
    }
    return {"metrics": aggregate(rows), "utterances": rows, "run": run}


def _facts(args, system, device: str) -> dict:
    """What decides the rows; a run with other facts does not continue an interrupted one. No paths of this machine."""
    facts = {"system": Path(args.system).name, "judge": args.judge, "seed": args.seed, "batch": BATCH, "device": device}
    facts |= {"manifest": Path(args.manifest).name, "manifest_sha256": _hash(Path(args.manifest))}
    facts |= {"split": args.split, "speaker": args.speaker, "limit": args.limit, "skip": sorted(args.skip)}
    if system.peer is not None and args.weights != "mini":
        facts["weights"] = Path(args.weights).name if Path(args.weights).is_dir() else args.weights
    if system.taste is not None:
        from .tokenizer import CHECKPOINTS

        folder = CHECKPOINTS / args.weights if args.weights == "mini" else Path(args.weights)
        facts |= {"preset": system.taste.config.name, "weights": folder.name}
        facts["weights_manifest_sha256"] = _hash(folder / "manifest.json")
    return facts


def _hash(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _compare(first: str, second: str, out: str | None) -> int:
    from .evaluate import compare

    results = []
    for path in map(Path, (first, second)):
        try:
            results.append(json.loads(path.read_text(encoding="utf-8")))
            if not {"judge", "system"} <= results[-1]["run"].keys() or not results[-1]["utterances"]:
                raise ValueError("no rows")
            if not all(isinstance(row["id"], str) for row in results[-1]["utterances"]):
                raise ValueError("a row without a name")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise TasteError(f"{path} is not a result of `taste-min evaluate --json`; make one first.") from error
    differences = compare(*results, tests=True)
    names = [result["run"]["system"] for result in results]
    _show(f"{names[0]} minus {names[1]}", differences)
    if out:
        runs = [result["run"] for result in results]
        write_json(Path(out), differences | {"run": {"a": runs[0], "b": runs[1], "commit": commit()}})
    return 0


def _show(title: str, metrics: dict[str, dict]) -> None:
    print(f"{title}, 95 % intervals")
    for name, row in metrics.items():
        ends = "one text, no interval" if row["low"] is None else f"{row['low']:.3f} .. {row['high']:.3f}"
        test = f"   p {row['p']:.4f}, after Holm {row['holm_p']:.4f}" if "p" in row else ""
        print(f"  {name:<28}{row['value']:>9.3f}   {ends}{test}")


def write_json(path: Path, content: dict) -> None:
    """One line per entry and per utterance; whole or not at all."""
    entries = []
    for key, value in content.items():
        text = json.dumps(value)
        if isinstance(value, list):
            text = "[\n  " + ",\n  ".join(json.dumps(row) for row in value) + "\n ]"
        entries.append(f" {json.dumps(key)}: {text}")
    write_whole(path, "{\n" + ",\n".join(entries) + "\n}\n")


@dataclass
class Partial:
    """Rows done so far, one JSON line each in `path`, below a line with the facts of the run they belong to.

    Without a path they are only kept in memory. Rows of another run are dropped, and so are those from the first
    damaged line on and an unfinished batch.
    """

    path: Path | None
    key: dict
    rows: list[dict] = field(default_factory=list)
    batch: int = BATCH

    def __post_init__(self):
        if self.path and self.path.is_file():
            records = read_records(self.path)
            if records[:1] == [self.key]:
                self.rows = records[1:]
        self.rows = self.rows[: len(self.rows) // self.batch * self.batch]
        if self.path:
            write_whole(self.path, to_lines([self.key, *self.rows]))

    def add(self, rows: list[dict]) -> None:
        self.rows += rows
        if self.path:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(to_lines(rows))
