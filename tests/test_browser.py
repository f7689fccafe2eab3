"""The pages in a real browser without a network: `make test-browser`. Needs Chromium, and fails without one."""

import contextlib
import time

import book_files
import pytest
from browser import Browser
from conftest import ROOT
from test_widgets import ALL

from taste_min.bitrate import bitrate

pytestmark = pytest.mark.browser
HTML = ROOT / "_build" / "html"
PROBE = (ROOT / "tools" / "browser_probe.js").read_text()
PAGES = [f"{page}.html" for page in book_files.toc_files()]
WIDTHS = {"desktop": 1280, "phone": 390}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    one = Browser(tmp_path_factory.mktemp("profile"))
    yield one
    with contextlib.suppress(OSError):
        one.close()


# -- the probe: does it see what it should?

GOOD = "<h1>T</h1><h2>A</h2><p>text</p><a href='#a'>x</a><button id='a'>b</button>"
BAD = {
    "page is": "<div style='width: 3000px; height: 9px'></div>",
    "headings skip": "<h4>x</h4>",
    "link to nowhere": "<a href='#b'>x</a>",
    "contrast": "<p style='color: #999'>too pale</p>",
    "without a name": "<button></button>",
    "cannot play": "<audio aria-label='a' src='data:audio/mpeg;base64,AAAA'></audio>",
    "image not shown": "<img alt='x' src='missing.png'>",
    "exception": "<script>undefined.x</script>",
    "request to": "<img alt='x' src='http://example.org/x.png'>",
}


def look(browser, path, body, width=1280):
    path.write_text(f"<!doctype html><html lang='en'><body><article>{body}</article></body></html>")
    browser.window(width, 900)
    browser.scheme("light")
    browser.open(path)
    return browser.evaluate(PROBE) + browser.complaints()


def test_a_page_without_faults_is_not_complained_about(browser, tmp_path):
    assert look(browser, tmp_path / "page.html", GOOD) == []


@pytest.mark.parametrize("fault", BAD)
def test_the_probe_sees(fault, browser, tmp_path):
    assert any(
        text.startswith(fault) or fault in text for text in look(browser, tmp_path / "page.html", GOOD + BAD[fault])
    )


# -- widgets, by mouse and by keyboard

WIDGET = 'document.querySelector(".taste-widget")'
SHOWN = '[...document.querySelectorAll(".taste-panel")].filter((p) => !p.hidden).map((p) => p.dataset.key).join()'


def element(selector, number=0):
    return f"{WIDGET}.querySelectorAll({selector!r})[{number}]"


@pytest.fixture
def open_widget(browser, tmp_path):
    def open_widget(kind):
        assert look(browser, tmp_path / "page.html", "<h1>T</h1>" + ALL[kind]().html) == []

    return open_widget


def test_slider(browser, open_widget):
    open_widget("slider")
    assert browser.evaluate(SHOWN) == "1"
    browser.evaluate(f"{element('input')}.focus()")
    browser.press("ArrowLeft")
    assert browser.evaluate(SHOWN) == "0"
    assert browser.evaluate(f"{element('input')}.getAttribute('aria-valuetext')") == "none"
    browser.click(element("input"), right=True)
    assert browser.evaluate(SHOWN) == "1"


def test_what_is_heard_goes_on_in_the_next_panel(browser, open_widget):
    open_widget("slider")
    browser.evaluate(f"{element('audio', 1)}.play()")
    browser.evaluate(f"{element('input')}.focus()")
    browser.press("ArrowLeft")
    assert browser.evaluate(f"[{element('audio')}.paused, {element('audio', 1)}.paused]") == [False, True]


def test_swap_editor(browser, open_widget):
    open_widget("switches")
    assert browser.evaluate(SHOWN) == "00"
    browser.click(element("button", 1))
    assert browser.evaluate(SHOWN) == "01"
    browser.evaluate(f"{element('button', 0)}.focus()")
    browser.press(" ")
    assert browser.evaluate(SHOWN) == "11"
    browser.press("Tab")
    browser.press(" ")
    assert browser.evaluate(SHOWN) == "10"


def test_choices(browser, open_widget):
    open_widget("choices")
    assert browser.evaluate(SHOWN) == "0-0"
    browser.click(element("input", 1))
    assert browser.evaluate(SHOWN) == "1-0"
    browser.evaluate(f"{element('input', 2)}.focus()")
    browser.press("ArrowRight")
    assert browser.evaluate(SHOWN) == "1-1"


def test_attention_explorer(browser, open_widget):
    open_widget("attention")
    said = f"{element('output')}.textContent"
    assert browser.evaluate(said).startswith("Layer 1, head 2: “one” has 0.50")
    browser.click(element(".taste-control button", 2))
    assert "<three>" in browser.evaluate(said)
    browser.evaluate(f"{element('select', 1)}.focus()")
    browser.press("ArrowDown")
    assert browser.evaluate(said).startswith("Layer 1, head 3")
    ink = f"(c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(Boolean))({element('canvas')})"
    assert browser.evaluate(ink)
    browser.click(element(".taste-hear"))
    assert browser.evaluate(f"new Promise((done) => setTimeout(() => done({WIDGET}.dataset.heard), 500))") == "2"
    assert browser.complaints() == []


def test_bitrate_calculator(browser, open_widget):
    open_widget("bitrate")
    browser.evaluate(f"{element('input', 2)}.focus()")
    browser.press("ArrowRight")  # five codes
    expected = bitrate(2.7, 2.7 * 1.2, n_quantizers=5)
    shown = browser.evaluate(f"{element('.taste-result')}.value")
    assert (
        shown
        == f"{expected.codes:.0f} bit/s of codes and {expected.text:.0f} bit/s of text: {expected.total:.0f} bit/s"
    )
    browser.click(element("input", 0), right=True)
    assert browser.evaluate(f"{element('.taste-result')}.value") != shown


# -- the pages


@pytest.mark.parametrize("device", WIDTHS)
@pytest.mark.parametrize("page", PAGES)
def test_page(page, device, browser):
    browser.window(WIDTHS[device], 900)
    browser.scheme("light")
    browser.open(HTML / page)
    still = "{textContent: '* { transition: none !important }'}"  # colours would fade
    browser.evaluate(f"document.head.append(Object.assign(document.createElement('style'), {still}))")
    found = []
    for scheme in ("light", "dark"):
        browser.scheme(scheme)
        theme = "document.documentElement.dataset.theme"
        for _ in range(50):  # the page follows a little later
            if browser.evaluate(theme) == scheme:
                break
            time.sleep(0.1)
        assert browser.evaluate(theme) == scheme
        found += [f"{scheme}: {text}" for text in browser.evaluate(PROBE)]
    unready = "[...document.querySelectorAll('.taste-widget')].filter((w) => !('ready' in w.dataset)).length"
    assert browser.evaluate(unready) == 0
    assert found + browser.complaints() == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("notebooks/")])
def test_first_player_plays(page, browser):
    browser.open(HTML / page)
    moved = """(async () => {
      const player = document.querySelector("audio");
      if (!player) return 1;
      await player.play();
      for (let i = 0; i < 100 && player.currentTime === 0; i++) await new Promise((done) => setTimeout(done, 100));
      return player.currentTime;
    })()"""
    assert browser.evaluate(moved) > 0


@pytest.mark.parametrize("page", PAGES)
def test_sliders_and_buttons_of_the_page_react_to_the_keyboard(page, browser):
    browser.open(HTML / page)
    kinds = browser.evaluate("[...document.querySelectorAll('.taste-widget')].map((w) => w.dataset.widget)")
    for number, kind in enumerate(kinds):
        widget = f"document.querySelectorAll('.taste-widget')[{number}]"
        shown = f"{widget}.querySelectorAll('.taste-panel:not([hidden]), output')"
        state = f"[...{shown}].map((part) => part.dataset.key ?? part.textContent).join()"
        before = browser.evaluate(state)
        browser.evaluate(f"{widget}.querySelector('input, .taste-control button:not([aria-pressed=true])').focus()")
        browser.press(" " if kind in ("switches", "attention") else "ArrowRight")
        if browser.evaluate(state) == before:  # it was at its right end
            browser.press("ArrowLeft")
        assert browser.evaluate(state) != before, (number, kind)
