"""Things to touch, without a kernel: what they show is computed beforehand and lies in the page.

Every widget is plain HTML that can be read and heard as it is; the small script beside this file only decides which
part is visible. It comes along in every widget, so a page, JupyterLab and Colab show the same. Everything works by
mouse and by keyboard, and nothing is fetched.

Axes: S audio samples, W words, L layers, H heads, T frames.
"""

import base64
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .bitrate import bitrate
from .errors import TasteError
from .viz import Html, sound

HERE = Path(__file__).parent
MAX_SWITCHES = 6  # 64 renderings


class Panel(NamedTuple):
    """What is seen and heard at one position. facts: short lines of text; picture: HTML, see `image` and `curves`."""

    label: str
    wav: np.ndarray
    sample_rate: int
    transcript: str
    facts: Sequence[str] = ()
    picture: str = ""


def _widget(kind: str, title: str, body: str, text: str) -> Html:
    style, script = ((HERE / f"widgets.{suffix}").read_text(encoding="utf-8") for suffix in ("css", "js"))
    html = (
        f'<div class="taste-widget" data-widget="{kind}" role="group" aria-label="{escape(title, quote=True)}">'
        f'<p class="taste-title">{escape(title)}</p>{body}</div><style>{style}</style><script>{script}</script>'
    )
    return Html(html, f"{title}\n{text}")


def _panel(key: str, panel: Panel) -> str:
    audio, seconds = sound(panel.label, panel.wav, panel.sample_rate, panel.transcript)
    facts = f"<ul>{''.join(f'<li>{escape(fact)}</li>' for fact in panel.facts)}</ul>" if panel.facts else ""
    return (
        f'<div class="taste-panel" data-key="{key}" data-label="{escape(panel.label, quote=True)}">'
        f"<p><strong>{escape(panel.label)}</strong></p>{panel.picture}{audio}"
        f"<p>{escape(panel.transcript)} <small>({seconds:.1f} s)</small></p>{facts}</div>"
    )


def slider(title: str, panels: Sequence[Panel], start: int = 0) -> Html:
    """One panel at a time, chosen by a slider: few codes to many, few steps to many.

    start: position at first. Raises TasteError for fewer than two panels, and whatever `viz.player` raises.
    """
    if len(panels) < 2 or not 0 <= start < len(panels):
        raise TasteError(f"a slider needs two panels or more and a start among them, got {len(panels)} and {start}.")
    control = (
        f'<p class="taste-control" hidden><label>{escape(title)} <input type="range" min="0" max="{len(panels) - 1}" '
        f'step="1" value="{start}"></label></p>'
    )
    body = control + "".join(_panel(str(position), panel) for position, panel in enumerate(panels))
    return _widget("slider", title, body, "\n".join(panel.label for panel in panels))


def swap_editor(
    title: str, words: Sequence[str], renderings: Mapping[str, Panel], switches: Sequence[int] | None = None
) -> Html:
    """A sentence whose words are buttons: pressed, a word takes its codes from another recording.

    words: all words of the sentence. switches: places of those that can be exchanged, at most six; default all.
    renderings: state -> panel for every state, a string of one "0" (own codes) or "1" (exchanged) per switch, in the
    order of `switches`. Raises TasteError when there are too many switches or a state is missing.
    """
    switches = list(range(len(words))) if switches is None else list(switches)
    if not 1 <= len(switches) <= MAX_SWITCHES:
        raise TasteError(
            f"between one and {MAX_SWITCHES} words can be exchanged, got {len(switches)}; name `switches`."
        )
    states = [f"{number:0{len(switches)}b}" for number in range(2 ** len(switches))]
    missing = [state for state in states if state not in renderings]
    if missing or len(renderings) != len(states):
        raise TasteError(
            f"{len(states)} renderings are needed, one per state; missing: {', '.join(missing) or 'none'}."
        )
    shown = [
        f'<button type="button" aria-pressed="false">{escape(word)}</button>' if place in switches else escape(word)
        for place, word in enumerate(words)
    ]
    body = f'<p class="taste-control" hidden>{" ".join(shown)}</p>'
    body += "".join(_panel(state, renderings[state]) for state in states)
    return _widget("switches", title, body, " ".join(words))


def choices(title: str, options: Mapping[str, Sequence[str]], panels: Mapping[tuple[str, ...], Panel]) -> Html:
    """One panel at a time, chosen by one button of each group, such as a prompt, a model and a seed.

    options: name of a group -> its choices, the first one is chosen at first. panels: one for every combination, in the
    order of the groups. Raises TasteError when there is nothing to choose or a combination has no panel.
    """
    keys = list(itertools.product(*options.values()))
    missing = [" / ".join(key) for key in keys if key not in panels]
    if len(keys) < 2 or missing or len(panels) != len(keys):
        raise TasteError(
            f"{len(keys)} panels are needed, one per combination of choices, and at least two; missing: "
            f"{', '.join(missing) or 'none'}."
        )
    groups = ""
    for name, values in options.items():
        buttons = "".join(
            f'<label><input type="radio" name="{escape(name, quote=True)}" value="{i}"{"" if i else " checked"}> '
            f"{escape(value)}</label>"
            for i, value in enumerate(values)
        )
        groups += f"<fieldset><legend>{escape(name)}</legend>{buttons}</fieldset>"
    places = itertools.product(*(range(len(values)) for values in options.values()))
    body = f'<form class="taste-control" hidden>{groups}</form>'
    body += "".join(_panel("-".join(map(str, place)), panels[key]) for place, key in zip(places, keys, strict=True))
    return _widget("choices", title, body, "\n".join(" / ".join(key) for key in keys))


def attention_explorer(
    title: str,
    wav: np.ndarray,
    sample_rate: int,
    words: Sequence[str],
    spans: Sequence[tuple[float, float]],
    maps: np.ndarray,
    scores: np.ndarray,
    start: tuple[int, int] = (0, 0),
) -> Html:
    """Choose a layer, a head and a word; see the map and hear the recording as loud as the word attends to it.

    wav: (S,). spans: start and end of each word in seconds. maps: (L, H, W, T) attention over the frames of the
    recording, which last T equal parts of it. scores: (L, H, W), e.g. `alignment.mass_inside`. start: layer and head.
    Raises TasteError when the shapes disagree.
    """
    n_layers, n_heads, n_words, n_frames = maps.shape
    if not n_words == len(words) == len(spans) or scores.shape != maps.shape[:3]:
        raise TasteError(
            f"{len(words)} words, {len(spans)} spans, maps {maps.shape} and scores {scores.shape} do not fit together."
        )
    audio, _ = sound("the recording", wav, sample_rate, " ".join(words))
    rows = maps / np.maximum(maps.max(axis=-1, keepdims=True), 1e-12)
    data = {
        "maps": base64.b64encode((255 * rows).round().astype(np.uint8).tobytes()).decode(),
        "shape": list(maps.shape),
        "spans": [[round(float(a), 3), round(float(b), 3)] for a, b in spans],
        "seconds": len(wav) / sample_rate,
        "scores": np.asarray(scores, dtype=float).round(3).tolist(),
    }
    selects = "".join(
        f"<label>{name} <select>"
        + "".join(f"<option{' selected' if i == chosen else ''}>{i}</option>" for i in range(n))
        + "</select></label> "
        for name, n, chosen in (("layer", n_layers, start[0]), ("head", n_heads, start[1]))
    )
    buttons = " ".join(f'<button type="button" aria-pressed="false">{escape(word)}</button>' for word in words)
    best = scores[start].mean()
    body = (
        f'<div hidden class="taste-control"><p>{selects}</p><p>{buttons}</p></div>'
        f'<canvas width="{4 * n_frames}" height="{22 * n_words}" role="img" aria-label="attention map" hidden></canvas>'
        f"<p><output>Layer {start[0]}, head {start[1]}: {best:.2f} of a row inside its word, on average.</output></p>"
        f'<p>{audio} <button type="button" class="taste-hear" hidden>Hear what the word attends to</button></p>'
        f'<script type="application/json">{json.dumps(data)}</script>'
    )
    return _widget("attention", title, body, " ".join(words))


def bitrate_calculator(words_per_second: float, tokens_per_second: float, vocab_size: int = 51866) -> Html:
    """Sliders for everything that the bit rate of TASTE depends on (paper section 4.1); starts at the given rates."""
    rate = bitrate(words_per_second, tokens_per_second, vocab_size=vocab_size)
    sliders = (
        ("words", "words per second", 0.5, 6, 0.1, round(words_per_second, 1)),
        ("tokens", "text tokens per word", 1, 3, 0.05, round(tokens_per_second / max(words_per_second, 1e-9), 2)),
        ("codes", "codes per word", 0, 12, 1, 4),
        ("bits", "bits per code", 1, 14, 1, 9),
    )
    rows = "".join(
        f'<p><label>{label} <input type="range" name="{name}" min="{low}" max="{high}" step="{step}" value="{value}">'
        f"</label> <output>{value}</output></p>"
        for name, label, low, high, step, value in sliders
    )
    body = (
        f'<div class="taste-control" hidden data-vocabulary="{vocab_size}">{rows}</div>'
        f'<p><output class="taste-result" aria-live="polite">{rate.codes:.0f} bit/s of codes and {rate.text:.0f} bit/s '
        f"of text: {rate.total:.0f} bit/s</output></p>"
    )
    return _widget("bitrate", "What would it cost?", body, f"{rate.total:.0f} bit/s")


def image(pixels: np.ndarray, alt: str, cmap: str = "viridis", low: float | None = None, high: float | None = None):
    """A small picture (M, T), row 0 at the bottom, as HTML. low, high: values at the ends of the colours."""
    from matplotlib import image as mpl_image

    buffer = io.BytesIO()
    mpl_image.imsave(buffer, pixels[::-1], cmap=cmap, vmin=low, vmax=high, format="png")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img class="taste-picture" alt="{escape(alt, quote=True)}" src="data:image/png;base64,{data}">'


def curves(wav: np.ndarray, sample_rate: int, f0: np.ndarray, alt: str, span: float, n_points: int = 240) -> str:
    """Waveform (S,) and F0 (F,) in Hz over the same time, 0 where there is no voice, as a drawing in HTML.

    span: seconds that the whole width stands for, so that drawings of several recordings can be compared.
    """
    width, loud = 600 * len(wav) / sample_rate / span, np.abs(wav)
    height = np.array([part.max(initial=0.0) for part in np.array_split(loud, n_points)])
    height = 18 * height / max(loud.max(initial=0.0), 1e-9)
    x = np.linspace(0, width, n_points)
    upper = [f"{a:.0f},{30 - h:.1f}" for a, h in zip(x, height, strict=True)]
    lower = [f"{a:.0f},{30 + h:.1f}" for a, h in zip(x[::-1], height[::-1], strict=True)]
    lines, run, step = [], [], max(1, len(f0) // n_points)
    for i, hertz in enumerate([*f0[::step], 0.0]):
        if hertz > 0:
            semitones = 12 * np.log2(np.clip(hertz, 60, 480) / 60)  # three octaves from top to bottom
            run.append(f"{i * step / len(f0) * width:.0f},{110 - 1.5 * semitones:.1f}")
        else:
            lines += [f'<polyline class="taste-f0" points="{" ".join(run)}"/>'] if len(run) > 1 else []
            run = []
    return (
        f'<svg class="taste-picture" viewBox="0 0 600 112" role="img" aria-label="{escape(alt, quote=True)}">'
        f'<polygon class="taste-wave" points="{" ".join(upper + lower)}"/>{"".join(lines)}</svg>'
    )
