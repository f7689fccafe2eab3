"""viz: players that can be heard and read by everyone, tables, and colours that can be told from the background."""

import base64
import io
import re

import matplotlib
import matplotlib.figure
import numpy as np
import pytest
import soundfile
from bs4 import BeautifulSoup

from taste_min import viz
from taste_min.errors import TasteError

RATE = 16000


def tone(amplitude, seconds=1.0, hertz=440.0):
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(int(RATE * seconds)) / RATE)).astype(np.float32)


def clips(html):
    """Decoded audio of each player in the page."""
    for data in re.findall(r"data:audio/mpeg;base64,([A-Za-z0-9+/=]+)", html):
        yield soundfile.read(io.BytesIO(base64.b64decode(data)))


def test_player_rows_have_audio_label_and_transcript():
    html = viz.player([("one", tone(0.1), RATE, "a tone & more"), ("<two>", tone(0.2), RATE, "again")])._repr_html_()
    page = BeautifulSoup(html, "html.parser")
    players = page.find_all("audio")
    assert [player["aria-label"] for player in players] == ["one: a tone & more", "<two>: again"]
    assert all(player.has_attr("controls") and player["src"].startswith("data:audio/mpeg") for player in players)
    assert "again" in page.get_text() and not page.find("two") and not page.find("script")
    assert not re.search(r"https?://", html)


def test_player_matches_loudness_without_clipping():
    spike = tone(0.001)
    spike[1000] = 0.9  # scaling this to the common loudness would exceed full scale
    rows = [("quiet", tone(0.01), RATE, "t"), ("loud", tone(0.9), RATE, "t"), ("spike", spike, RATE, "t")]
    (quiet, rate), (loud, _), (spiky, _) = clips(viz.player(rows).html)
    assert rate == RATE
    assert np.std(quiet) == pytest.approx(np.std(loud), rel=0.05)
    assert np.abs(spiky).max() <= 1.05  # MP3 may overshoot slightly


def test_player_reads_files_at_their_own_rate(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(0.1), 22050)
    ((wav, rate),) = clips(viz.player([("a", tmp_path / "a.wav", None, "t")]).html)
    assert rate == 22050 and len(wav) >= RATE


def test_five_seconds_stay_small():
    noise = np.random.default_rng(0).normal(0, 0.1, 5 * RATE).astype(np.float32)
    assert len(viz.player([("noise", noise, RATE, "noise")]).html) < 60_000  # a WAV would take 213,000


def test_silence_can_be_played():
    ((wav, _),) = clips(viz.player([("nothing", np.zeros(RATE), RATE, "silence")]).html)
    assert np.abs(wav).max() < 1e-3


@pytest.mark.parametrize(
    "row, message",
    [
        (("a", tone(0.1), RATE, " "), "transcript"),
        (("a", np.zeros((2, 10)), RATE, "t"), "mono"),
        (("a", np.array([np.nan]), RATE, "t"), "finite"),
        (("a", tone(0.1), 12345, "t"), "MP3"),
    ],
)
def test_player_refuses(row, message):
    with pytest.raises(TasteError, match=message):
        viz.player([row])


def test_table_escapes_and_labels():
    html = viz.table(["name", "value"], [("<b>", 3)], caption="x < y")._repr_html_()
    page = BeautifulSoup(html, "html.parser")
    assert page.find("tbody").find("th").get_text() == "<b>" and page.find("caption").get_text() == "x < y"
    with pytest.raises(TasteError, match="2 cells"):
        viz.table(["name", "value"], [("a", 1, 2)])


def test_points_are_drawn_in_order_and_without_ends_that_are_not_there():
    figure = matplotlib.figure.Figure()
    axis = figure.subplots()
    entries = {"a": {"value": 1.0, "low": 0.5, "high": 2.0}, "b": {"value": 3.0, "low": None, "high": None}}
    viz.points(axis, entries, ["red", "blue"], shift=0.1)
    lines, dots = axis.collections
    assert dots.get_offsets().tolist() == [[1.0, 0.1], [3.0, 1.1]]
    (first, second) = (path.vertices for path in lines.get_paths())
    assert first.tolist() == [[0.5, 0.1], [2.0, 0.1]] and np.isnan(second[:, 0]).all()
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["a", "b"] and axis.yaxis_inverted()


def test_a_verdict_stands_in_the_caption():
    claim = {"claim": "It holds", "verdict": "not reproduced", "rows": [["a", "above 0", "-1.0", "not reproduced"]]}
    assert "It holds: not reproduced." in viz.verdict(claim).html


def test_what_is_shown_again_is_kept_under_its_name_and_not_shown_twice(monkeypatch):
    output, kept = viz.table(["a"], [("b",)]), []
    monkeypatch.setattr("IPython.display.display", lambda data, raw, metadata: kept.append((data, metadata)))
    assert viz.show_again("00.table", output) is output
    ((data, metadata),) = kept
    prefix = metadata["scrapbook"]["mime_prefix"]
    assert metadata["scrapbook"]["name"] == "00.table"
    assert data == {f"{prefix}text/html": output.html, f"{prefix}text/plain": output.text}


def luminance(colour):
    channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in matplotlib.colors.to_rgb(colour)]
    return float(np.dot((0.2126, 0.7152, 0.0722), channels))


@pytest.mark.parametrize("colour", viz.COLOURS.values())
def test_colours_stand_out_from_the_figure_background(colour):
    contrast = (luminance(viz.BACKGROUND) + 0.05) / (luminance(colour) + 0.05)
    assert contrast >= 3.0


def test_roles_have_different_colours():
    assert len(set(viz.COLOURS.values())) == len(viz.COLOURS)


def test_figures_have_an_opaque_background():
    import matplotlib.pyplot as plt

    with matplotlib.rc_context():
        viz.use_style()
        figure, _ = plt.subplots()
        buffer = io.BytesIO()
        viz.show(figure).savefig(buffer, format="png")
        pixels = plt.imread(io.BytesIO(buffer.getvalue()))
    assert (pixels[..., 3] == 1).all()
    assert not plt.get_fignums()


def test_a_strip_of_shapes_names_every_axis():
    strip = viz.shapes([("mel", (80, 3000), "MF"), ("<codes>", (5, 4), "WR")])
    assert repr(strip) == "mel (M 80 × F 3000) -> <codes> (W 5 × R 4)"
    assert "&lt;codes&gt;" in strip._repr_html_()
    with pytest.raises(TasteError, match="2 axes, 1 letters"):
        viz.shapes([("mel", (80, 3000), "M")])
