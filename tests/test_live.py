"""Functions with controls: the first values without a kernel, any values with one."""

import pytest

from taste_min import live
from taste_min.viz import Html

CONTROLS = {"seed": (3, 9), "voice": ["low", "high"], "loud": True, "text": "Hello."}


def said(seed, voice, loud, text):
    return Html(f"<p>{seed} {voice} {loud} {text}</p>", f"{seed} {voice} {loud} {text}")


def test_without_a_kernel_the_first_values_are_shown_and_nothing_of_ipywidgets(monkeypatch):
    monkeypatch.setenv("TASTE_MIN_LIVE", "0")
    monkeypatch.setattr("ipywidgets.interactive", None)
    shown = live.interact(said, **CONTROLS)
    assert shown.html.startswith("<p>3 low True Hello.</p>") and live.NOTE in shown.html
    assert repr(shown) == f"3 low True Hello.\n{live.NOTE}"


def test_with_a_kernel_the_button_runs_what_is_chosen(monkeypatch):
    monkeypatch.delenv("TASTE_MIN_LIVE", raising=False)
    calls = []
    box = live.interact(lambda **values: calls.append(values), **CONTROLS)
    assert calls == [] and box.auto_display  # only the button starts it, and its result is shown
    box.manual_button.click()
    controls = {child.description: child for child in box.kwargs_widgets}
    controls["seed"].value, controls["voice"].value, controls["loud"].value = 7, "high", False
    box.manual_button.click()
    first = {"seed": 3, "voice": "low", "loud": True, "text": "Hello."}
    assert calls == [first, first | {"seed": 7, "voice": "high", "loud": False}]


@pytest.mark.parametrize("seed", [2, 10])
def test_controls_stay_in_their_range(monkeypatch, seed):
    monkeypatch.delenv("TASTE_MIN_LIVE", raising=False)
    box = live.interact(said, **CONTROLS)
    slider = next(child for child in box.kwargs_widgets if child.description == "seed")
    slider.value = seed
    assert slider.value in (3, 9)
