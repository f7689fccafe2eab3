"""`taste-min prepare`: a real corpus becomes a folder that `taste-min train` reads (paper section 4.1).

Every utterance is decoded, brought to 22.05 kHz mono and aligned with its text; manifest.tsv has the columns of
`manifest.read_manifest`. The mini preset's units, speaker vectors and mel spectrograms follow with the stages `units`
and `features` of `taste-min train`; prepare_units.py adds those of the released checkpoint. What cannot be used is
named in rejected.txt with the reason.

Axes: S samples.
"""

import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import soundfile
import torch
from torchaudio.functional import resample

from .align import align
from .audio import SAMPLE_RATE, VOCODER_RATE, WINDOW_SECONDS, check_audio
from .corpora import Source, read_corpus
from .corpus_files import fill, hours_by, write_recording
from .errors import TasteError

COLUMNS = ("id", "audio", "text", "speaker", "split", "seconds", "words")


def make(source: Source, out: Path) -> dict[str, str]:
    """Write the recording of one utterance and return its manifest row. Raises TasteError when it cannot be used."""
    if source.fault:
        raise TasteError(source.fault)
    text = " ".join(source.text.split())
    wav, rate = _decode(source)
    words = align(resample(wav, rate, SAMPLE_RATE), text)
    # A lower rate is raised: the mel spectrogram of the vocoder ends at 8 kHz.
    wav = resample(wav, rate, VOCODER_RATE)
    wav = wav / wav.abs().max().clamp(min=1)  # decoded mp3 may exceed the range of FLAC
    speaker = re.sub(r"[^\w-]", "_", source.speaker)
    audio = Path("audio", speaker, f"{source.id}.flac")
    write_recording(out / audio, wav.numpy(), VOCODER_RATE)
    return {
        "id": source.id,
        "audio": audio.as_posix(),
        "text": text,
        "speaker": speaker,
        "split": source.split,
        "seconds": f"{len(wav) / VOCODER_RATE:.3f}",
        "words": json.dumps([[word.text, round(word.start, 3), round(word.end, 3)] for word in words]),
    }


def _decode(source: Source) -> tuple[torch.Tensor, int]:
    """(wav (S,), its rate in Hz). Raises TasteError for audio that is unreadable, lower than 16 kHz or over 30 s."""
    try:
        with soundfile.SoundFile(_file(source)) as file:
            rate, limit = file.samplerate, WINDOW_SECONDS * file.samplerate
            if file.frames > limit:
                raise TasteError(f"it lasts {file.frames / rate:.1f} s; the encoder's window is {WINDOW_SECONDS} s")
            data = file.read(dtype="float32", always_2d=True)  # (S, channels)
    except soundfile.LibsndfileError as error:
        raise TasteError("its recording is not readable audio") from error
    if rate < SAMPLE_RATE:
        raise TasteError(f"its recording has {rate} Hz; at least {SAMPLE_RATE} Hz are needed")
    return check_audio(torch.from_numpy(data.mean(axis=1)), "its recording"), rate


def _file(source: Source) -> io.BytesIO | str:
    return io.BytesIO(source.audio) if isinstance(source.audio, bytes) else str(source.audio)


def _seconds(source: Source) -> float:
    """Length as the corpus says or by the header of the recording; 0 when it has none."""
    try:
        return source.seconds or soundfile.info(_file(source)).duration
    except soundfile.LibsndfileError:
        return 0.0


def first_hours(sources: Iterable[Source], hours: float) -> Iterator[Source]:
    """The first utterances that last `hours` together. Those that are known to be unusable are passed on, uncounted."""
    left = hours * 3600
    for source in sources:
        if left <= 0:
            return
        yield source
        seconds = 0.0 if source.fault else _seconds(source)
        left -= seconds if seconds <= WINDOW_SECONDS else 0.0


def prepare(
    name: str,
    folder: str | Path,
    out: str | Path,
    subsets: Sequence[str] = (),
    hours: float | None = None,
    workers: int = 1,
    progress: bool = True,
) -> dict:
    """Prepare the corpus `name` in `folder`, or its first `hours`, into `out`; returns a summary of `out`.

    Raises TasteError for a folder without that corpus, and when nothing of it can be used.
    """
    from .manifest import read_manifest  # not above: the workers would import it

    out, sources = Path(out), read_corpus(name, folder, subsets)
    first = next(sources, None)  # so that a wrong layout is reported before `out` is made
    if first is None:
        raise TasteError(f"there are no utterances of {name} in {folder}; check that it is unpacked and whole.")
    sources = itertools.chain([first], sources)
    fill(out, COLUMNS, sources if hours is None else first_hours(sources, hours), make, workers, progress=progress)
    rejected = (out / "rejected.txt").read_text(encoding="utf-8").splitlines()
    rows = read_manifest(out)
    if not rows:
        reason = ": ".join(rejected[0].split("\t"))
        raise TasteError(f"no utterance could be used; the first of {len(rejected)} reasons: {reason}")
    return {
        "folder": str(out),
        "utterances": len(rows),
        "rejected": len(rejected),
        "speakers": len({row.speaker for row in rows}),
        "hours": round(sum(row.seconds for row in rows) / 3600, 3),
        "hours_by_split": hours_by(rows, "split"),
    }


def command(args) -> int:
    """`taste-min prepare`: args.corpus, folder, out, subset, hours, workers, graphs, json."""
    if args.workers < 1 or (args.hours is not None and not args.hours > 0):
        raise TasteError("--hours must be more than 0 and --workers at least 1.")
    if args.graphs:
        from .prepare_units import add_units, check_graphs

        check_graphs(args.graphs)  # before the long work
    result = prepare(args.corpus, args.folder, args.out, args.subset, args.hours, args.workers)
    if args.graphs:
        add_units(Path(args.out), args.graphs, args.workers)
    if args.json:
        print(json.dumps(result, indent=2))
        return 0
    splits = ", ".join(f"{split} {hours} h" for split, hours in result["hours_by_split"].items())
    print(f"{result['utterances']} utterances of {result['speakers']} speakers in {args.out}: {splits}")
    missing = [split for split in ("train", "dev") if split not in result["hours_by_split"]]
    if missing:
        print(f"training also needs speech of split {' and '.join(missing)}: add subsets, shards or --hours")
    if result["rejected"]:
        print(f"{result['rejected']} could not be used; {Path(args.out) / 'rejected.txt'} says why")
    return 0
