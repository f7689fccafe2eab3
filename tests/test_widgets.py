"""widgets: plain HTML that says everything without its script; what the script does is in test_browser.py."""

import base64
import json
import re

import numpy as np
import pytest
from bs4 import BeautifulSoup

from taste_min import widgets
from taste_min.bitrate import bitrate
from taste_min.errors import TasteError
from taste_min.widgets import Panel

RATE = 16000
WAV = (0.1 * np.sin(np.arange(RATE) / 10)).astype(np.float32)


def panel(label):
    return Panel(label, WAV, RATE, "a tone & more", ["< 1 bit"])


def attention(n_words=3):
    maps = np.random.default_rng(0).dirichlet(np.ones(50), size=(2, 4, n_words))  # (L, H, W, T)
    words, spans = ["one", "two", "<three>"], [(0, 0.3), (0.3, 0.6), (0.6, 1.0)]
    return widgets.attention_explorer("Look", WAV, RATE, words, spans, maps, np.full((2, 4, n_words), 0.5), (1, 2))


def swap_editor(n, n_panels=None):
    states = [f"{number:0{n}b}" for number in range(2**n)][:n_panels]
    return widgets.swap_editor("Swap", ["a", "b", "c"], {state: panel(state) for state in states}, range(n))


def choices(panels=None):
    options = {"prompt": ["one", "<two>"], "seed": ["0", "1"]}
    every = {(a, b): panel(f"{a} {b}") for a in options["prompt"] for b in options["seed"]}
    return widgets.choices("Choose", options, every if panels is None else panels)


ALL = {
    "slider": lambda: widgets.slider("Codes", [panel("none"), panel("<one>")], start=1),
    "switches": lambda: swap_editor(2),
    "choices": choices,
    "attention": attention,
    "bitrate": lambda: widgets.bitrate_calculator(2.7, 3.2),
}


@pytest.mark.parametrize("kind", ALL)
def test_is_complete_without_its_script(kind):
    page = BeautifulSoup(ALL[kind]()._repr_html_(), "html.parser")
    (widget,) = page.select(f'.taste-widget[data-widget="{kind}"]')
    assert widget.get("aria-label") and not page.find("three") and not page.find("one")
    for control in widget.select("input, select"):
        assert control.find_parent("label").get_text().strip()
        assert control.find_parent(class_="taste-control").has_attr("hidden")  # it could not do anything
    assert all(button["type"] == "button" for button in widget.find_all("button"))
    assert all(audio["aria-label"] and audio["src"].startswith("data:audio/mpeg") for audio in widget.find_all("audio"))
    assert not any(part.has_attr("hidden") for part in widget.select(".taste-panel"))


@pytest.mark.parametrize("kind", ALL)
def test_fetches_nothing_and_has_its_script(kind):
    html = ALL[kind]()._repr_html_()
    assert not re.search(r"https?:|fetch\(|XMLHttp|import\(", html)
    assert f"{kind}(widget)" in html, "widgets.js knows no such kind"


def test_panels_carry_label_sound_transcript_and_facts():
    page = BeautifulSoup(ALL["slider"]()._repr_html_(), "html.parser")
    assert [part["data-key"] for part in page.select(".taste-panel")] == ["0", "1"]
    assert [audio["aria-label"] for audio in page.find_all("audio")] == ["none: a tone & more", "<one>: a tone & more"]
    assert page.find("li").get_text() == "< 1 bit" and page.find("input")["value"] == "1"


def test_swap_editor_has_a_panel_per_state_and_a_button_per_switch():
    page = BeautifulSoup(swap_editor(2)._repr_html_(), "html.parser")
    assert {part["data-key"] for part in page.select(".taste-panel")} == {"00", "01", "10", "11"}
    control = page.select_one(".taste-control")
    assert [b.get_text() for b in control.find_all("button")] == ["a", "b"] and control.get_text() == "a b c"


def test_choices_have_a_panel_per_combination_and_one_button_of_each_group_is_pressed():
    page = BeautifulSoup(choices()._repr_html_(), "html.parser")
    assert [part["data-key"] for part in page.select(".taste-panel")] == ["0-0", "0-1", "1-0", "1-1"]
    assert [part["data-label"] for part in page.select(".taste-panel")][2] == "<two> 0"
    assert [field.legend.get_text() for field in page.find_all("fieldset")] == ["prompt", "seed"]
    assert [i["value"] for i in page.select("input[checked]")] == ["0", "0"]


def test_attention_maps_survive_in_the_page():
    page = BeautifulSoup(attention()._repr_html_(), "html.parser")
    data = json.loads(page.find("script", type="application/json").get_text())
    maps = np.frombuffer(base64.b64decode(data["maps"]), dtype=np.uint8).reshape(data["shape"])
    assert maps.shape == (2, 4, 3, 50) and (maps.max(axis=-1) == 255).all()
    assert data["seconds"] == 1 and np.shape(data["scores"]) == (2, 4, 3)
    assert [o.get_text() for o in page.select("option[selected]")] == ["1", "2"]


def test_calculator_starts_with_the_rates_of_the_package():
    rate = bitrate(2.7, 3.2)
    text = BeautifulSoup(ALL["bitrate"]()._repr_html_(), "html.parser").select_one(".taste-result").get_text()
    assert f"{rate.total:.0f} bit/s" in text and f"{rate.codes:.0f} bit/s of codes" in text


def test_drawings_have_a_description_and_follow_length_and_pitch():
    low, high = (widgets.curves(WAV, RATE, np.full(100, hertz), "a < b", 2.0) for hertz in (100, 200))
    svg = BeautifulSoup(low, "html.parser").svg
    assert svg["aria-label"] == "a < b"
    points = [[float(x) for x in point.split(",")] for point in svg.polyline["points"].split()]
    assert max(x for x, _ in points) <= 300  # one second of two
    above = BeautifulSoup(high, "html.parser").polyline["points"].split()[0].split(",")
    assert points[0][1] - float(above[1]) == pytest.approx(18, abs=0.2)  # an octave
    assert 'alt="a &lt; b"' in widgets.image(np.eye(3), "a < b")


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: widgets.slider("x", [panel("a")]), "two panels"),
        (lambda: widgets.slider("x", [panel("a"), panel("b")], start=2), "start"),
        (lambda: swap_editor(2, n_panels=3), "11"),
        (lambda: widgets.swap_editor("x", ["w"] * 7, {}), "six|6"),
        (lambda: choices({("one", "0"): panel("x")}), "<two> / 1"),
        (lambda: widgets.choices("x", {"a": ["b"]}, {("b",): panel("x")}), "at least two"),
        (lambda: attention(n_words=2), "do not fit"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(TasteError, match=message):
        make()
