"""A browser, the built site and servers on the loopback address, for tests of what a person sees.

Skipped, with the reason, where no browser is installed; with CRYOFORMER_REQUIRE_BROWSER=1, as
.ci/run sets it, a missing one is a failure. CRYOFORMER_BROWSER names the browser's executable, else
Chromium or Chrome is looked for.
"""

import functools
import http.server
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from browsing import LOOPBACK, ROOT, missing
from lab import Lab, working_copy

# As root in a container a sandbox cannot be made; the network ends at this machine; the other flags
# keep Chromium from calling home.
FLAGS = [
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE " + LOOPBACK,
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--ignore-gpu-blocklist",
    "--enable-unsafe-swiftshader",
]


def pytest_collection_modifyitems(items):
    "Whatever needs a browser is slow."
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.slow)


BROWSERS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]


@pytest.fixture(scope="session")
def chromium():
    "A headless Chromium under Playwright."
    if importlib.util.find_spec("playwright") is None:
        missing("no browser driver: pip install -c constraints.txt -e '.[dev]' installs playwright")
    names = filter(None, [os.environ.get("CRYOFORMER_BROWSER"), *BROWSERS])
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        missing(
            "no browser found: install Chromium (Debian: apt-get install chromium), "
            "or name one in CRYOFORMER_BROWSER"
        )
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    "The folder of the site, built by tools/docs.py."
    if importlib.util.find_spec("smalldocs") is None:
        missing("smalldocs is not installed: pip install -c constraints.txt -e '.[dev]'")
    installed = (ROOT / "tools" / "node_modules").is_dir()
    if not (installed or shutil.which("npm") or "CRYOFORMER_NODE_MODULES" in os.environ):
        missing(
            "npm is not installed: the site takes KaTeX and its fonts from npm packages "
            "(Debian: apt-get install npm)"
        )
    out = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, ROOT / "tools" / "docs.py", "--out", out]
    env = dict(os.environ, OMP_NUM_THREADS="1")
    built = subprocess.run(command, capture_output=True, text=True, env=env)
    if built.returncode == 3:
        pytest.skip(built.stderr.strip().splitlines()[-1])  # no registry of packages within reach
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    (out.parent / "log.txt").write_text(built.stdout)
    return out


@pytest.fixture(scope="session")
def address(site):
    "The site's address on the loopback interface."

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer((LOOPBACK, 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://{LOOPBACK}:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    "A JupyterLab over a copy of the tutorials, with their solutions."
    if importlib.util.find_spec("jupyterlab") is None:
        missing("jupyterlab is not installed: pip install -c constraints.txt -e '.[dev]'")
    notebooks = working_copy(tmp_path_factory.mktemp("notebooks"))
    server = Lab(notebooks, tmp_path_factory.mktemp("jupyter"))
    yield server
    server.stop()
