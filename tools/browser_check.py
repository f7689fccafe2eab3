"""Open every page in Chromium with the network off, in light and in dark mode, and look at what a reader would notice.

Fails on console errors, failed or remote requests, formulas that were not set, players that cannot play, and pages
wider than the window. Screenshots go to `_build/screenshots/`. Needs a Chromium; not part of `make test`.

    python tools/browser_check.py [--chromium PATH] [PAGE ...]      pages as in _toc.yml
"""

import argparse
import base64
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from book_files import ROOT, toc_files
from websocket import WebSocketTimeoutException, create_connection

HTML = ROOT / "_build" / "html"
SHOTS = ROOT / "_build" / "screenshots"
WIDTH, HEIGHT, PART = 1280, 900, 2400  # pixels; PART: height of one screenshot

# What the page itself can tell, once MathJax and the players have had their chance.
PROBE = """
(async () => {
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  const players = [...document.querySelectorAll('audio')];
  await Promise.all(players.map(p => new Promise(done => {
    if (p.readyState > 0 || p.error) return done();
    p.onloadedmetadata = p.onerror = done;
    setTimeout(done, 5000);
    p.load();
  })));
  const found = [];
  const math = [...document.querySelectorAll('article .math')];
  const unset = math.filter(m => !m.querySelector('mjx-container') || m.querySelector('mjx-merror'));
  unset.forEach(m => found.push('formula not set: ' + m.textContent.slice(0, 60)));
  players.filter(p => !(p.duration > 0)).forEach(p => found.push('cannot play: ' + p.getAttribute('aria-label')));
  document.querySelectorAll('article img').forEach(i => {
    if (!i.complete || i.naturalWidth === 0) found.push('image not shown: ' + i.src);
  });
  const wide = document.documentElement.scrollWidth - window.innerWidth;
  if (wide > 0) found.push('page is ' + wide + ' pixels wider than the window');
  return JSON.stringify({found, height: document.documentElement.scrollHeight, math: math.length,
                         players: players.length, theme: document.documentElement.dataset.theme});
})()
"""


class Browser:
    """A headless Chromium, spoken to over the DevTools protocol."""

    def __init__(self, chromium: str, profile: str):
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]
        flags += [f"--user-data-dir={profile}", f"--window-size={WIDTH},{HEIGHT}", "--remote-allow-origins=*"]
        flags += ["--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--disable-background-networking"]
        self.process = subprocess.Popen([chromium, *flags, "about:blank"], stderr=subprocess.DEVNULL)
        port_file = Path(profile) / "DevToolsActivePort"
        for _ in range(100):
            if port_file.exists() and port_file.read_text():
                break
            time.sleep(0.2)
        port = port_file.read_text().split()[0]
        targets = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json"))
        address = next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
        self.socket = create_connection(address, timeout=60)
        self.ids = itertools.count(1)
        self.events: list[dict] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params) -> dict:
        number = next(self.ids)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self.events.append(message)

    def wait_for(self, method: str) -> None:
        while not any(event.get("method") == method for event in self.events):
            self.events.append(json.loads(self.socket.recv()))

    def drain(self) -> list[dict]:
        self.socket.settimeout(0.3)
        try:
            while True:
                self.events.append(json.loads(self.socket.recv()))
        except WebSocketTimeoutException:
            self.socket.settimeout(60)
        return self.events

    def close(self) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(timeout=20)


def complaints(events: list[dict]) -> list[str]:
    """Console errors, uncaught exceptions, failed loads and requests to other places."""
    found = []
    for event in events:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            found.append("exception: " + params["exceptionDetails"]["text"])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            found.append(f"console: {params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            found.append("console: " + " ".join(str(arg.get("value", "")) for arg in params["args"]))
        elif method == "Network.loadingFailed" and not params.get("canceled"):
            found.append(f"not loaded: {params.get('errorText')}")
        elif method == "Network.requestWillBeSent":
            address = params["request"]["url"]
            if not address.startswith(("file:", "data:", "blob:", "about:")):
                found.append(f"request to {address}")
    return found


def check(browser: Browser, page: str, scheme: str) -> list[str]:
    browser.events.clear()
    browser.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    metrics = {"width": WIDTH, "deviceScaleFactor": 1, "mobile": False}
    browser.call("Emulation.setDeviceMetricsOverride", height=HEIGHT, **metrics)
    browser.call("Page.navigate", url=(HTML / f"{page}.html").as_uri())
    browser.wait_for("Page.loadEventFired")
    answer = browser.call("Runtime.evaluate", expression=PROBE, awaitPromise=True)["result"]
    seen = json.loads(answer["value"])
    found = seen["found"] + complaints(browser.drain())
    if seen["theme"] != scheme:
        found.append(f"theme is {seen['theme']}")
    for part, top in enumerate(range(0, seen["height"], PART)):  # very tall images come out wrong
        browser.call("Emulation.setDeviceMetricsOverride", height=min(PART, seen["height"] - top), **metrics)
        browser.call("Runtime.evaluate", expression=f"window.scrollTo(0, {top})")
        time.sleep(0.3)
        shot = browser.call("Page.captureScreenshot", format="png")
        name = f"{page.replace('/', '_')}_{scheme}_{part}.png"
        (SHOTS / name).write_bytes(base64.b64decode(shot["data"]))
    print(f"{page} ({scheme}): {seen['math']} formulas, {seen['players']} players, {len(found)} problems")
    return [f"{page} ({scheme}): {text}" for text in found]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", help="default: all of _toc.yml")
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome"))
    args = parser.parse_args()
    if not args.chromium:
        parser.error("no Chromium found; install one or name it with --chromium")
    SHOTS.mkdir(parents=True, exist_ok=True)
    found = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(args.chromium, profile)
        try:
            for page in args.pages or toc_files():
                for scheme in ("light", "dark"):
                    found += check(browser, page, scheme)
        finally:
            browser.close()
    print("\n".join(found) or "no problems")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
