"""Figures and audio players of the book: one style, one palette by role, one HTML player, one HTML table.

Figures have an opaque light background and mid-tone colours, so they can be read on a light and on a dark page.
Everything returned here is plain HTML or a matplotlib figure: no script, no network, the same in a notebook and on a
page. `S` is audio samples.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .errors import TasteError

# The same thing has the same colour in every chapter. Mid-tones: contrast of at least 3:1 on the figure background.
COLOURS = {
    "reference": "#3c4a5a",  # the recording, the ground truth, forced alignment
    "accent": "#1f6fb4",  # what the chapter is about, when nothing else fits
    "shallow": "#1b8a6b",  # a shallow encoder layer, V
    "last": "#7a4fb0",  # the last encoder layer, K
    "text": "#b06a00",  # text, the text-only baseline
    "taste": "#c0392b",  # TASTE codes
    "random": "#8a8f98",  # random weights
    "shuffled": "#b5548a",  # shuffled input
    "paper": "#5d6d1e",  # numbers of the paper
    "muted": "#7b8794",  # grid, helper lines
}
ATTENTION_CMAP = "magma_r"  # attention maps, spectrograms of probabilities: light = 0
MEL_CMAP = "viridis"
CODE_CMAP = "twilight"  # code indices have no order, so a cyclic map
BACKGROUND = "#fbfbf8"
INK = "#1d232b"


def use_style() -> None:
    """Set the matplotlib defaults of the book."""
    import matplotlib as mpl

    mpl.rcParams.update(
        {
            "figure.facecolor": BACKGROUND,
            "savefig.facecolor": BACKGROUND,
            "axes.facecolor": BACKGROUND,
            "figure.figsize": (8.0, 3.4),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "axes.edgecolor": COLOURS["muted"],
            "axes.labelcolor": INK,
            "axes.titlecolor": INK,
            "axes.titlelocation": "left",
            "axes.titlesize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": mpl.cycler(
                color=[COLOURS[role] for role in ("accent", "taste", "shallow", "last", "text")]
            ),
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "font.size": 10,
            "legend.frameon": False,
            "image.cmap": MEL_CMAP,
            "lines.linewidth": 1.8,
        }
    )


def show(figure):
    """Close `figure` (so that it is not drawn twice) and return it: the last expression of a cell."""
    import matplotlib.pyplot as plt

    plt.close(figure)
    return figure


def points(axis, entries: Mapping[str, Mapping], colours: str | Sequence[str], shift=0.0, label=None, marker="o"):
    """Values with their ends as horizontal lines, one row per label, the first on top.

    entries: label -> {value, low, high}; ends that are None are not drawn. colours: one for all, or one per row.
    shift: moves all rows, for a second series.
    """
    names = ("value", "low", "high")
    value, low, high = np.array([[entry[name] for name in names] for entry in entries.values()], dtype=float).T
    rows = np.arange(len(entries)) + shift
    axis.hlines(rows, low, high, colors=colours, lw=2.5, alpha=0.5)
    axis.scatter(value, rows, c=colours, s=28, marker=marker, label=label, zorder=3)
    axis.set_yticks(range(len(entries)), entries)
    axis.set_ylim(len(entries) - 0.5, -0.5)


class Html(NamedTuple):
    """HTML for a notebook cell; `print` gives the plain-text form."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def show_again(name: str, output: Html) -> Html:
    """Return `output` for this cell, and keep it under `name`: a page of the book can show it with `{glue} name`."""
    from IPython.display import display

    prefix = "application/papermill.record/"  # what myst_nb looks for, and no notebook shows
    metadata = {"scrapbook": {"name": name, "mime_prefix": prefix}}
    data = {f"{prefix}text/html": output.html, f"{prefix}text/plain": output.text}
    display(data, raw=True, metadata=metadata)
    return output


def table(header: Sequence[str], rows: Sequence[Sequence], caption: str = "") -> Html:
    """A small table. Cells are strings or numbers, formatted by the caller; the first column labels the row."""
    for row in rows:
        if len(row) != len(header):
            raise TasteError(f"every row needs {len(header)} cells like the header, got {len(row)}: {list(row)}.")
    head = "".join(f'<th scope="col">{escape(str(cell))}</th>' for cell in header)
    body = "".join(
        "<tr>"
        + f'<th scope="row">{escape(str(row[0]))}</th>'
        + "".join(f"<td>{escape(str(cell))}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    html = f'<table class="table">{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    lines = ["\t".join(map(str, row)) for row in (header, *rows)]
    return Html(html, "\n".join([*lines, caption] if caption else lines))


def verdict(claim: Mapping) -> Html:
    """The verdict on a claim: {claim, verdict, rows of measured, criterion, result, verdict}."""
    header = ["measured", "criterion, written beforehand", "ours, with 95 % interval", "verdict"]
    return table(header, claim["rows"], f"{claim['claim']}: {claim['verdict']}.")


def _loudness_matched(wav: np.ndarray, target_rms: float = 0.07, peak: float = 0.98) -> np.ndarray:
    """Scale (S,) to the target RMS over its non-silent part, but never let a sample exceed `peak`."""
    level = np.abs(wav)
    if level.max(initial=0.0) == 0:
        return wav
    rms = np.sqrt(np.mean(wav[level > 0.01 * level.max()] ** 2))
    return wav * min(target_rms / rms, peak / level.max())


def mp3(wav: np.ndarray, sample_rate: int) -> bytes:
    """Encode (S,) in [-1, 1] as MP3 (a rate MP3 does not know raises TasteError)."""
    import soundfile

    buffer = io.BytesIO()
    try:
        soundfile.write(buffer, wav, sample_rate, format="MP3", subtype="MPEG_LAYER_III")
    except soundfile.LibsndfileError as error:
        raise TasteError(
            f"cannot write MP3 at {sample_rate} Hz ({error}); resample to 16000, 22050 or 24000 Hz."
        ) from error
    return buffer.getvalue()


def sound(label: str, wav: np.ndarray | str | Path, sample_rate: int | None, transcript: str) -> tuple[str, float]:
    """One audio element that carries its sound, and its length in seconds; arguments and errors as in `player`."""
    import soundfile

    if not transcript.strip():
        raise TasteError(f"the player row {label!r} has no transcript; say what is heard.")
    if isinstance(wav, str | Path):
        wav, sample_rate = soundfile.read(wav, dtype="float32")
    wav = np.asarray(wav, dtype=np.float32)
    if wav.ndim != 1 or wav.size == 0 or not np.isfinite(wav).all():
        raise TasteError(f"the player row {label!r} needs finite mono audio of shape (S,), got {wav.shape}.")
    data = base64.b64encode(mp3(_loudness_matched(wav), sample_rate)).decode()
    name = escape(f"{label}: {transcript}", quote=True)
    html = f'<audio controls preload="metadata" aria-label="{name}" src="data:audio/mpeg;base64,{data}"></audio>'
    return html, wav.size / sample_rate


def player(rows: Sequence[tuple[str, np.ndarray | str | Path, int | None, str]]) -> Html:
    """Audio players with a transcript each, at one loudness.

    Args:
        rows: (label, wav, sample_rate, transcript); wav is a mono array (S,) or the path of a file, whose own rate is
            used. The transcript says what is heard.

    Raises:
        TasteError: empty transcript, wrong shape, or samples that are not finite.
    """
    cells = []
    for label, wav, sample_rate, transcript in rows:
        audio, seconds = sound(label, wav, sample_rate, transcript)
        cells.append(
            f'<tr><th scope="row" style="text-align:left">{escape(label)}</th><td>{audio}</td>'
            f'<td style="text-align:left">{escape(transcript)} <small>({seconds:.1f} s)</small></td></tr>'
        )
    head = '<thead><tr><th scope="col">clip</th><th scope="col">listen</th><th scope="col">transcript</th></tr></thead>'
    html = f'<table class="table taste-player">{head}<tbody>{"".join(cells)}</tbody></table>'
    return Html(html, "\n".join(f"{label}: {transcript}" for label, _, _, transcript in rows))


def shapes(steps: Sequence[tuple[str, Sequence[int], str]]) -> Html:
    """A strip of what flows from left to right: (name, its shape, the axis letters), such as ("mel", (80, 3000), "MF").

    Raises TasteError when a shape has not one size per letter.
    """
    boxes, lines = [], []
    for name, shape, axes in steps:
        if len(shape) != len(axes):
            raise TasteError(f"{name} has {len(shape)} axes, {len(axes)} letters are given: {axes}.")
        sizes = " × ".join(f"{letter} {size}" for letter, size in zip(axes, shape, strict=True))
        boxes.append(
            '<li style="border:1px solid currentColor;border-radius:.3em;padding:.2em .6em">'
            f"{escape(name)}<br><code>{escape(sizes)}</code></li>"
        )
        lines.append(f"{name} ({sizes})")
    style = "display:flex;flex-wrap:wrap;gap:.4em 1.4em;list-style:none;padding:0;margin:0"
    html = f'<ol class="taste-shapes" aria-label="shapes, in order" style="{style}">{"".join(boxes)}</ol>'
    return Html(html, " -> ".join(lines))
