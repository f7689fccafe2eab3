"""The command `taste-min`: one function per subcommand, each with --json where it reports numbers.

A TasteError, and a file that the system refuses, end as one sentence on stderr and exit code 2.
"""

import argparse
import json
import sys
from dataclasses import asdict

from . import evaluate_command, speech_command, taslm_command, train_command
from .errors import TasteError


def fetch(args) -> int:
    """Download and check the assets of the mini preset."""
    from . import assets

    return assets.command(args)


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


def corpus(args) -> int:
    """Build the synthetic mini corpus: speech, text and word times."""
    from . import corpus_build

    return corpus_build.command(args)


def prepare(args) -> int:
    """Turn LibriSpeech, LibriTTS or Emilia into a corpus folder for `train`: recordings, manifest, word times."""
    from . import prepare

    return prepare.command(args)


def extract(args) -> int:
    """Compute the TASTE codes of a corpus once, for the training of the language model."""
    from . import extract

    return extract.command(args)


def train(args) -> int:
    """Train one stage: units, features, those of the tokenizer, those of the language model."""
    return train_command.command(args)


def evaluate(args) -> int:
    """Measure a system on recordings: word errors, prosody of words, quality, speaker, bits."""
    return evaluate_command.command(args)


def parity(args) -> int:
    """Compare every golden tensor in a folder with this package."""
    from . import parity

    return parity.command(args)


def export(args) -> int:
    """Write a model in the layout of the original code: a folder like the release, or the .pt file of its trainer."""
    from . import released_export

    return released_export.command(args)


def bench(args) -> int:
    """Time every stage, its distance from what the machine could do, and the decoder beside the original's way."""
    from . import bench

    return bench.command(args)


def doctor(args) -> int:
    """Say what this machine can run: Python, torch, GPU, network, and the profile that fits."""
    from . import doctor

    return doctor.command(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="taste-min", description="Text-aligned speech tokens (TASTE), in the open.")
    sub = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    p = sub.add_parser("doctor", help=doctor.__doc__)
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(run=doctor)

    p = sub.add_parser("fetch", help=fetch.__doc__)
    p.add_argument("names", nargs="*", metavar="ASSET", help="default: what the mini preset needs")
    p.add_argument("--list", action="store_true", help="show every asset, its size, licence and whether it is here")
    p.add_argument("--verify", action="store_true", help="hash the files that are already here and repair them")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(run=fetch)

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

    p = sub.add_parser("corpus", help=corpus.__doc__)
    actions = p.add_subparsers(dest="action", required=True, metavar="ACTION")
    p = actions.add_parser("build", help="make the utterances that are missing; an interrupted build continues")
    p.add_argument("--hours", type=float, default=7.0, help="size of the corpus (default: 7)")
    p.add_argument("--out", required=True, help="folder for audio/ and manifest.tsv")
    p.add_argument("--workers", type=int, default=1, help="parallel processes (default: 1)")
    p.add_argument(
        "--voices", nargs="+", default=[], help="make these voices now (default: all six); joe is the fastest"
    )
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(run=corpus)

    p = sub.add_parser("prepare", help=prepare.__doc__)
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
    p.set_defaults(run=prepare)

    p = sub.add_parser("extract", help=extract.__doc__)
    p.add_argument("data", help="corpus folder with manifest.tsv; with features/ the recordings are not opened")
    p.add_argument("--out", required=True, help="folder for the codes; an interrupted run continues")
    p.add_argument("--preset", default="mini", help="which model: mini, or a folder of exported parts (default: mini)")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.add_argument(
        "--no-units",
        action="store_true",
        help="leave out the speech units, which only unit_lm reads and which cost most",
    )
    p.set_defaults(run=extract)

    p = sub.add_parser("train", help=train.__doc__)
    train_command.add_arguments(p)
    p.set_defaults(run=train)

    p = sub.add_parser("export", help=export.__doc__)
    p.add_argument("preset", help="a folder of exported parts, an original checkpoint, or a hub id")
    p.add_argument("--out", required=True, help="a folder, or a name that ends with .pt")
    p.add_argument("--taslm", help="also the language model of this adapter file or original checkpoint")
    p.add_argument("--force", action="store_true", help="replace files that exist")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(run=export)

    p = sub.add_parser("evaluate", help=evaluate.__doc__)
    evaluate_command.add_arguments(p)
    p.set_defaults(run=evaluate)

    p = sub.add_parser("parity", help=parity.__doc__)
    p.add_argument("folder", help="folder with *.safetensors golden files")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(run=parity)

    p = sub.add_parser("bench", help=bench.__doc__)
    p.add_argument("--preset", default="mini", help="mini, paper or tiny (random weights), or a folder (default: mini)")
    p.add_argument("--seconds", type=float, default=3.0, help="length of the speech, 0.5 to 30 (default: 3)")
    p.add_argument("--runs", type=int, default=3, help="the fastest of so many runs counts (default: 3)")
    groups = ("encoding", "decoding", "joint", "training")  # see bench_stages.py
    p.add_argument("--stages", nargs="+", choices=groups, help="only these (default: all)")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(run=bench)
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
