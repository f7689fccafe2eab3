"""The command `taste-min`: one function per subcommand, each with --json where it reports numbers.

A TasteError ends as one sentence on stderr and exit code 2.
"""

import argparse
import json
import sys

from .errors import TasteError


def _print(result: dict | list, as_json: bool, text: str) -> None:
    print(json.dumps(result, indent=2) if as_json else text)


def fetch(args) -> int:
    """Download and check the assets of the mini preset."""
    from . import assets

    return assets.command(args)


def parity(args) -> int:
    """Compare every golden tensor in a folder with this package."""
    from . import parity

    return parity.command(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="taste-min", description="Text-aligned speech tokens (TASTE), in the open.")
    sub = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    p = sub.add_parser("fetch", help=fetch.__doc__)
    p.add_argument("names", nargs="*", metavar="ASSET", help="default: what the mini preset needs")
    p.add_argument("--list", action="store_true", help="show every asset, its size, licence and whether it is here")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(run=fetch)

    p = sub.add_parser("parity", help=parity.__doc__)
    p.add_argument("folder", help="folder with *.safetensors golden files")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(run=parity)
    return parser


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except TasteError as error:
        print(f"taste-min: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
