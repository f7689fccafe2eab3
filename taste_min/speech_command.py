"""`taste-min decode | resynth | swap`: TASTE tokens or recordings in, a sound file out.

Importing this module does not import torch, because the command line reads its options.
"""

import json
import sys
from pathlib import Path

from .errors import TasteError

TOKENS_SUFFIX = ".safetensors"
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")


def decode(args) -> int:
    """Turn a file of TASTE tokens into speech."""
    check_audio_out(args)
    if Path(args.tokens).suffix != TOKENS_SUFFIX:
        raise TasteError(f"{args.tokens} is not a {TOKENS_SUFFIX} file of tokens; use `taste-min resynth` for speech.")
    tokens, speaker = read(args.tokens, args), args.speaker and read(args.speaker, args)
    taste = load(args, args.text_only)
    return speak(args, taste, tokens, speaker, args.text_only)


def resynth(args) -> int:
    """Encode a recording and decode it again: what TASTE keeps of it."""
    check_audio_out(args)
    wav, speaker = read(args.audio, args), args.speaker and read(args.speaker, args)
    taste = load(args, args.text_only)
    return speak(args, taste, encoded(taste, wav, args.text), speaker, args.text_only)


def swap(args) -> int:
    """Speak HOST, with some words as they sound in DONOR."""
    check_audio_out(args)
    words, donor_words = _numbers(args.words), args.donor_words and _numbers(args.donor_words)
    host, donor = read(args.host, args), read(args.donor, args)
    speaker = args.speaker and read(args.speaker, args)
    taste = load(args)
    host, donor = (encoded(taste, item, args.text) for item in (host, donor))
    swapped = host.swap(donor, words, donor_words)
    return speak(args, taste, swapped, speaker, swapped=words)


def check_output(path: str, force: bool, suffixes: tuple[str, ...]) -> None:
    """Raises TasteError when a file cannot or should not be written; cheap, so that it comes before the work."""
    target = Path(path)
    if target.suffix.lower() not in suffixes:
        raise TasteError(f"the name of {path} must end with {' or '.join(suffixes)}.")
    if not target.parent.is_dir():
        raise TasteError(f"there is no folder {target.parent}; make it first or choose another name.")
    if target.exists() and not force:
        raise TasteError(f"{path} exists already; add --force to replace it or choose another name.")


def check_audio_out(args) -> None:
    """As `check_output`, for the sound file of --out."""
    check_output(args.out, args.force, AUDIO_SUFFIXES)


def read(path: str, args):
    """TasteTokens of a token file, or the waveform of a recording."""
    if Path(path).suffix == TOKENS_SUFFIX:
        from .tokens import TasteTokens

        return TasteTokens.load(path)
    from .audio import read_audio

    return read_audio(path, convert=args.convert)


def load(args, text_only: bool = False):
    """The model, with every part that decoding will need."""
    from .tokenizer import Taste

    taste = Taste.from_pretrained(args.preset)
    for name in ("text_only_decoder" if text_only else "unit_decoder", "flow", "vocoder"):
        taste.part(name)
    return taste


def encoded(taste, item, text: str | None):
    """Tokens of what `read` returned. text: the transcript of a recording, recognised when None."""
    from .tokens import TasteTokens

    return item if isinstance(item, TasteTokens) else taste.encode(item, text)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise TasteError(f"word numbers are separated by commas, for example 2,5; got '{text}'.") from error


def speak(args, taste, tokens, speaker, text_only: bool = False, **facts) -> int:
    """Decode, write, report. speaker: what `read` returned for --speaker, or None."""
    from .audio import write_audio

    decoded = taste.decode(tokens, speaker_of(taste, speaker), text_only, seed=args.seed)
    write_audio(args.out, decoded.wav, decoded.sample_rate)
    seconds = len(decoded.wav) / decoded.sample_rate
    if not decoded.ended:
        print("taste-min: the speech was cut at its length limit; another --seed may help.", file=sys.stderr)
    if args.json:
        report = {"out": args.out, "text": tokens.text, "words": [word.text for word in tokens.words]}
        report |= {"seconds": round(seconds, 3), "sample_rate": decoded.sample_rate, "units": len(decoded.units)}
        print(json.dumps(report | {"ended": decoded.ended, "seed": args.seed, **facts}, indent=2))
    else:
        print(f"{args.out}: {seconds:.2f} s, {len(decoded.units)} units: {tokens.text}")
    return 0


def speaker_of(taste, item):
    """The speaker embedding of what `read` returned, None of nothing."""
    from .tokens import TasteTokens

    if item is None:
        return None
    return item.speaker_embedding if isinstance(item, TasteTokens) else taste.speaker_encoder.speaker_embedding(item)


def add_parsers(sub) -> None:
    """The three subcommands and their options."""
    p = sub.add_parser("decode", help=decode.__doc__)
    p.add_argument("tokens", help="a .safetensors file written by `taste-min encode`")
    p.add_argument("--text-only", action="store_true", help="leave the codes out (the paper's baseline)")
    add_options(p, decode)

    p = sub.add_parser("resynth", help=resynth.__doc__)
    p.add_argument("audio", help="a recording, 16 kHz mono (see --convert), or its file of tokens")
    p.add_argument("--text", help="the transcript; recognised when left out")
    p.add_argument("--text-only", action="store_true", help="leave the codes out (the paper's baseline)")
    add_options(p, resynth)

    p = sub.add_parser("swap", help=swap.__doc__)
    p.add_argument("host", help="a recording or its file of tokens")
    p.add_argument("donor", help="another one in which the same words are spoken")
    p.add_argument("--words", required=True, help="word numbers in HOST, from 0, separated by commas: 2,5")
    p.add_argument("--donor-words", help="their numbers in DONOR (default: the same)")
    p.add_argument("--text", help="the transcript of both recordings; recognised when left out")
    add_options(p, swap)


def add_options(p, run, speaker_required: bool = False) -> None:
    """The options of every command that writes a sound file."""
    p.add_argument("-o", "--out", required=True, help=f"the sound file to write ({', '.join(AUDIO_SUFFIXES)})")
    voice = "speak with the voice of this recording or file of tokens"
    p.add_argument("--speaker", required=speaker_required, help=voice)
    p.add_argument("--seed", type=int, default=0, help="of all randomness (default: 0)")
    p.add_argument("--force", action="store_true", help="replace the sound file if it exists")
    p.add_argument("--preset", default="mini", help="which model: mini, or a folder of exported parts (default: mini)")
    p.add_argument("--convert", action="store_true", help="average channels and resample a higher rate to 16 kHz")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(run=run)
