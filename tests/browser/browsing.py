"""A page that is watched: what it asks for and what it complains about."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1"


def missing(reason: str) -> None:
    "Skip, or fail where a browser is required."
    if os.environ.get("CRYOFORMER_REQUIRE_BROWSER"):
        pytest.fail(reason)
    pytest.skip(reason)


class Watched:
    "A page, with the requests it makes to other hosts and its errors. The browser itself is started with no way to any other host."

    def __init__(self, browser, width=1280, height=900):
        self.page = browser.new_page(viewport={"width": width, "height": height})
        self.foreign, self.errors = [], []
        self.page.on(
            "request",
            lambda r: (
                self.foreign.append(r.url[:200])
                if not r.url.startswith(
                    (f"http://{LOOPBACK}:", f"ws://{LOOPBACK}:", "data:", "blob:", "about:")
                )
                else None
            ),
        )
        self.page.on(
            "console", lambda m: self.errors.append(m.text[:300]) if m.type == "error" else None
        )
        self.page.on("pageerror", lambda e: self.errors.append(str(e)[:300]))

    def visit(self, address: str) -> None:
        "Go there, with the findings of earlier visits forgotten."
        self.foreign.clear()
        self.errors.clear()
        self.page.goto(address, wait_until="load")
