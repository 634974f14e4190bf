"""A page that is watched: what it asks for and what it complains about."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1"
OURS = (f"http://{LOOPBACK}:", f"ws://{LOOPBACK}:", "data:", "blob:", "about:")


def missing(reason: str) -> None:
    "Skip, or fail where a browser is required."
    if os.environ.get("CRYOFORMER_REQUIRE_BROWSER"):
        pytest.fail(reason)
    pytest.skip(reason)


class Watched:
    "A page, the requests it makes to other hosts (its browser reaches none), and its errors."

    def __init__(self, browser, width=1280, height=900):
        self.page = browser.new_page(viewport={"width": width, "height": height})
        self.foreign, self.errors = [], []
        self.page.on("request", self.asked)
        self.page.on("console", self.complained)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)[:300]))

    def asked(self, request) -> None:
        if not request.url.startswith(OURS):
            self.foreign.append(request.url[:200])

    def complained(self, message) -> None:
        if message.type == "error":
            self.errors.append(message.text[:300])

    def visit(self, address: str) -> None:
        "Go there, with the findings of earlier visits forgotten."
        self.foreign.clear()
        self.errors.clear()
        self.page.goto(address, wait_until="load")
