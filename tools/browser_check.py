"""Screenshots of the pages, light and dark, wide and narrow, to look at: `_build/screenshots/`. Needs a Chromium.

What can be checked without looking is in tests/test_browser.py (`make test-browser`).

    python tools/browser_check.py [--chromium PATH] [PAGE ...]      pages as in _toc.yml
"""

import argparse
import tempfile
import time

from book_files import ROOT, toc_files
from browser import Browser

HTML = ROOT / "_build" / "html"
SHOTS = ROOT / "_build" / "screenshots"
HEIGHT, PART = 900, 2400  # pixels; PART: height of one screenshot, very tall ones come out wrong
WIDTHS = {"desktop": 1280, "phone": 390}


def photograph(browser: Browser, page: str, device: str, scheme: str) -> None:
    browser.window(WIDTHS[device], HEIGHT)
    browser.scheme(scheme)
    browser.open(HTML / f"{page}.html")
    browser.evaluate("window.MathJax?.startup?.promise.then(() => null)")
    height = browser.evaluate("document.documentElement.scrollHeight")
    for part, top in enumerate(range(0, height, PART)):
        browser.window(WIDTHS[device], min(PART, height - top))
        browser.evaluate(f"window.scrollTo(0, {top})")
        time.sleep(0.3)
        browser.screenshot(SHOTS / f"{page.replace('/', '_')}_{device}_{scheme}_{part}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", help="default: all of _toc.yml")
    parser.add_argument("--chromium", help="path of the browser; default: the one that is installed")
    args = parser.parse_args()
    SHOTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(profile, args.chromium)
        try:
            for page in args.pages or toc_files():
                for device in WIDTHS:
                    for scheme in ("light", "dark"):
                        photograph(browser, page, device, scheme)
                print(page)
        finally:
            browser.close()


if __name__ == "__main__":
    main()
