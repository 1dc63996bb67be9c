"""The built book in Chromium: served on a loopback port, every request that leaves the machine blocked, every error on record."""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
SHOTS = ROOT / "_build" / "screenshots"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SYSTEM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def pages() -> list[str]:
    return sorted(p.relative_to(HTML).as_posix() for p in HTML.rglob("*.html") if "_static" not in p.parts)


def chapters() -> list[str]:
    return [p for p in pages() if p.startswith(("book/", "notebooks/"))]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def base():
    if not (HTML / "index.html").exists():
        pytest.exit(f"there is no book in {HTML}: build it first, `make html` or `make test`", returncode=1)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(HTML)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as p:
        found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, SYSTEM)), None)
        if found is None and not Path(p.chromium.executable_path).exists():
            subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)
        try:
            launched = p.chromium.launch(executable_path=found, args=FLAGS)
        except Error as error:
            pytest.exit(
                "no browser for the tests: install Chromium or Chrome from your system (Debian: apt-get install chromium; or name one in the "
                f"environment variable CHROMIUM), or let Playwright fetch its own (python -m playwright install chromium).\n{error}",
                returncode=1,
            )
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: Browser, base: str):
    """open_page(path, width=1280, scheme="light", …) -> a page with its widgets up. Afterwards nothing may have gone wrong in it."""
    contexts, wrong = [], []

    def opened(path: str = "", width: int = 1280, scheme: str = "light", **kw) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **kw)
        contexts.append(context)
        page = context.new_page()

        def gate(route):
            if route.request.url.startswith((base, "data:", "blob:")):
                route.continue_()
            else:
                wrong.append(f"left the machine: {route.request.url}")
                route.abort()

        page.route("**/*", gate)
        page.on("pageerror", lambda e: wrong.append(f"page error: {e}"))
        page.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type == "error" else None)
        page.on("response", lambda r: wrong.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
        page.goto(base + path)
        page.wait_for_load_state("networkidle")
        if path.startswith(("book/", "notebooks/")) and kw.get("java_script_enabled", True):
            page.wait_for_selector("html[data-irw]", state="attached")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not wrong, "\n".join(wrong)


def slide(page: Page, **stops: int) -> None:
    """Move the sliders of these names to these stops."""
    for name, stop in stops.items():
        page.locator(f'input[data-param="{name}"]').fill(str(stop))


def shown(page: Page, readout: str) -> float:
    """The number that a readout shows."""
    return float(page.locator(f'[data-readout="{readout}"]').inner_text().replace("−", "-").split()[0])


def picture(page: Page, k: int) -> list[int]:
    """The pixels of the page's k-th canvas."""
    return page.locator(".irw canvas").nth(k).evaluate("c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]")
