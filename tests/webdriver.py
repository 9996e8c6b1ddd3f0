"""A browser for tests: the W3C WebDriver protocol of chromedriver, as much of it as a page's test needs."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the specification's name of a reference to an element

KEYS = {"left": "\ue012", "right": "\ue014", "enter": "\ue007", "escape": "\ue00c"}


class Browser:
    """One session of a headless browser."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._session = ""

    def open_session(
        self, profile: Path, size: tuple[int, int], flags: tuple[str, ...] = (), downloads: Path | None = None
    ) -> None:
        arguments = [*_FLAGS, *flags, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"]
        preferences = {} if downloads is None else {"download.default_directory": str(downloads)}
        chrome = {"args": arguments, "prefs": preferences}
        options = {"goog:chromeOptions": chrome, "goog:loggingPrefs": {"browser": "ALL"}}
        answer = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": {"browserName": "chrome", **options}}})
        self._session = f"/session/{answer['sessionId']}"

    def close(self) -> None:
        if self._session:
            self._ask("DELETE", self._session)

    def open(self, url: str) -> None:
        self._ask("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what a function's body returns in the page."""
        return self._ask("POST", f"{self._session}/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, selector: str) -> str:
        found = self._ask("POST", f"{self._session}/element", {"using": "css selector", "value": selector})
        return found[_ELEMENT]

    def click(self, selector: str) -> None:
        self._ask("POST", f"{self._session}/element/{self.find(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        self._ask("POST", f"{self._session}/element/{self.find(selector)}/value", {"text": text})

    def press(self, *keys: str) -> None:
        """Press keys where the focus is."""
        values = [KEYS.get(key, key) for key in keys]
        self.act("key", [{"type": kind, "value": value} for value in values for kind in ("keyDown", "keyUp")])

    def act(self, device: str, actions: list[dict[str, Any]]) -> None:
        """Do actions of the specification with a ``key``, ``pointer`` or ``wheel`` device."""
        self._ask("POST", f"{self._session}/actions", {"actions": [{"type": device, "id": device, "actions": actions}]})

    def messages(self) -> list[str]:
        """Return what the page wrote to the console since the last call: errors, above all."""
        return [entry["message"] for entry in self._ask("POST", f"{self._session}/se/log", {"type": "browser"})]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._ask("GET", f"{self._session}/screenshot")))

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - a server that this test started
            self._address + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None


@contextlib.contextmanager
def browser(
    folder: Path, size: tuple[int, int] = (1280, 900), flags: tuple[str, ...] = (), downloads: Path | None = None
) -> Iterator[Browser]:
    """A headless Chromium, whose downloads go to a folder; the test is skipped where there is none."""
    driver = shutil.which("chromedriver")
    if driver is None or not (shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("no chromium with chromedriver here (Debian: chromium, chromium-driver)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "driver.log").open("w") as log:
        process = subprocess.Popen([driver, f"--port={port}"], stdout=log, stderr=log)
        session = Browser(f"http://127.0.0.1:{port}")
        try:
            _wait_for(port)
            session.open_session(folder / "profile", size, flags, downloads)
            yield session
        finally:
            with contextlib.suppress(RuntimeError, OSError):
                session.close()
            process.terminate()
            process.wait(timeout=20)


def _wait_for(port: int, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return
