"""The command `taste-min`: its subcommands and their options, each with --json where it reports numbers.

A TasteError, and a file that the system refuses, end as one sentence on stderr and exit code 2.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module

from . import evaluate_command, speech_command, taslm_command, train_command
from .errors import TasteError


def encode(args) -> int:
    """Turn a recording into text and TASTE codes."""
    from itertools import chain

    from .audio import read_windows
    from .tokenizer import Taste

    if args.output:
        speech_command.check_output(args.output, args.force, (speech_command.TOKENS_SUFFIX,))
    windows = read_windows(args.audio, args.convert)
    first = next(windows)  # before the model: bad input should not wait for it
    tokens = Taste.from_pretrained(args.preset).encode_windows(chain([first], windows), args.text)
    if args.output:
        tokens.save(args.output)
    rate = tokens.bitrate()
    rows = [
        {"word": word.text, "start": round(word.start, 3), "end": round(word.end, 3), "codes": codes.tolist()}
        for word, codes in zip(tokens.words, tokens.codes, strict=True)
    ]
    if args.json:
        print(json.dumps({"text": tokens.text, "words": rows, "bit_per_second": asdict(rate)}, indent=2))
        return 0
    print(f"{'word':<20}{'start s':>9}{'end s':>9}  codes")
    for row in rows:
        print(f"{row['word']:<20}{row['start']:>9.2f}{row['end']:>9.2f}  " + " ".join(f"{c:3d}" for c in row["codes"]))
    print(f"{rate.codes:.0f} bit/s of codes + {rate.text:.0f} bit/s of text = {rate.total:.0f} bit/s")
    return 0


def _command(module: str) -> Callable[[argparse.Namespace], int]:
    """The function `command` of a module that is imported when it runs: most of them need torch."""
    return lambda args: import_module(f".{module}", __package__).command(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="taste-min", description="Text-aligned speech tokens (TASTE), in the open.")
    sub = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    p = sub.add_parser("doctor", help="Say what this machine can run: Python, torch, GPU, network, profile.")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(run=_command("doctor"))

    p = sub.add_parser("fetch", help="Download and check the assets of the mini preset.")
    p.add_argument("names", nargs="*", metavar="ASSET", help="default: what the chapters need")
    p.add_argument("--list", action="store_true", help="show every asset, its size, licence and whether it is here")
    p.add_argument("--verify", action="store_true", help="hash the files that are already here and repair them")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(run=_command("assets"))

    p = sub.add_parser("encode", help=encode.__doc__)
    p.add_argument("audio", help="a recording, 16 kHz mono (see --convert)")
    p.add_argument("-o", "--output", help="write the tokens to this .safetensors file")
    p.add_argument("--text", help="the transcript; recognised when left out")
    p.add_argument("--preset", default="mini", help="which model: mini, or a folder of exported parts (default: mini)")
    p.add_argument("--force", action="store_true", help="replace the output file if it exists")
    p.add_argument("--convert", action="store_true", help="average channels and resample a higher rate to 16 kHz")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(run=encode)

    speech_command.add_parsers(sub)
    taslm_command.add_parsers(sub)

    p = sub.add_parser("corpus", help="Build the synthetic mini corpus: speech, text and word times.")
    actions = p.add_subparsers(dest="action", required=True, metavar="ACTION")
    p = actions.add_parser("build", help="make the utterances that are missing; an interrupted build continues")
    p.add_argument("--hours", type=float, default=7.0, help="size of the corpus (default: 7)")
    p.add_argument("--out", required=True, help="folder for audio/ and manifest.tsv")
    p.add_argument("--workers", type=int, default=1, help="parallel processes (default: 1)")
    p.add_argument(
        "--voices", nargs="+", default=[], help="make these voices now (default: all six); joe is the fastest"
    )
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(run=_command("corpus_build"))

    p = sub.add_parser(
        "prepare",
        help="Turn LibriSpeech, LibriTTS or Emilia into a corpus folder for `train`.",
    )
    p.add_argument("corpus", choices=("librispeech", "libritts", "emilia"))
    p.add_argument("folder", help="where it was unpacked: subsets, or tar shards like EN/EN-B000000.tar")
    p.add_argument("--out", required=True, help="folder for audio/ and manifest.tsv; an interrupted run continues")
    p.add_argument("--subset", nargs="+", default=[], help="such as dev-clean train-clean-100 (default: all there are)")
    p.add_argument("--hours", type=float, help="only so much of it, held-out speech included (default: everything)")
    p.add_argument("--workers", type=int, default=1, help="parallel processes (default: 1)")
    p.add_argument(
        "--graphs", help="folder of the release's .onnx files (cosyvoice/): add S3 units and CAM++ speaker vectors"
    )
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(run=_command("prepare"))

    p = sub.add_parser("extract", help="Compute the codes of a corpus, for the training of the language model.")
    p.add_argument("data", help="corpus folder with manifest.tsv; with features/ the recordings are not opened")
    p.add_argument("--out", required=True, help="folder for the codes; an interrupted run continues")
    p.add_argument("--preset", default="mini", help="which model: mini, or a folder of exported parts (default: mini)")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.add_argument(
        "--no-units",
        action="store_true",
        help="leave out the speech units, which only unit_lm reads and which cost most",
    )
    p.set_defaults(run=_command("extract"))

    p = sub.add_parser("train", help="Train one stage: units, features, of the tokenizer, of the language model.")
    train_command.add_arguments(p)
    p.set_defaults(run=_command("train_command"))

    p = sub.add_parser("export", help="Write a model in the layout of the release, or of the original's trainer (.pt).")
    p.add_argument("preset", help="a folder of exported parts, an original checkpoint, or a hub id")
    p.add_argument("--out", required=True, help="a folder, or a name that ends with .pt")
    p.add_argument("--taslm", help="also the language model of this adapter file or original checkpoint")
    p.add_argument("--force", action="store_true", help="replace files that exist")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(run=_command("released_export"))

    p = sub.add_parser("evaluate", help="Measure a system: word errors, prosody of words, quality, speaker, bits.")
    evaluate_command.add_arguments(p)
    p.set_defaults(run=_command("evaluate_command"))

    p = sub.add_parser("parity", help="Compare every golden tensor in a folder with this package.")
    p.add_argument("folder", help="folder with *.safetensors golden files")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(run=_command("parity"))

    p = sub.add_parser(
        "bench",
        help="Time every stage, beside what the machine could do and the original's way.",
    )
    p.add_argument("--preset", default="mini", help="mini, paper or tiny (random weights), or a folder (default: mini)")
    p.add_argument("--seconds", type=float, default=3.0, help="length of the speech, 0.5 to 30 (default: 3)")
    p.add_argument("--runs", type=int, default=3, help="the fastest of so many runs counts (default: 3)")
    groups = ("encoding", "decoding", "joint", "training")  # see bench_stages.py
    p.add_argument("--stages", nargs="+", choices=groups, help="only these (default: all)")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(run=_command("bench"))
    return parser


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except TasteError as error:
        print(f"taste-min: {error}", file=sys.stderr)
    except OSError as error:  # of a file that was named: no permission, a folder, a name that is too long, a full disk
        print(f"taste-min: {error.filename or 'a file'} cannot be used ({error.strerror or error}).", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
