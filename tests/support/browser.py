"""A headless Chromium, driven through ChromeDriver (https://www.w3.org/TR/webdriver2)."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support import debian
from tests.support.http_worker import free_port

PACKAGES = {"chromium": "chromium", "chromedriver": "chromium-driver"}
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--window-size=1280,900"),
]
START_SECONDS = 120.0
WAIT_SECONDS = 60.0
LOOK_SECONDS = 0.05


class Page:
    """The page that the browser shows."""

    def __init__(self, session_url: str) -> None:
        self._url = session_url

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        answer = httpx.post(f"{self._url}/{path}", json=body, timeout=WAIT_SECONDS).json()["value"]
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(f"{answer['error']}: {answer['message']}")
        return answer

    def open(self, url: str) -> None:
        """Load a URL."""
        self._post("url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """Run the body of a JavaScript function in the page; return its value."""
        return self._post("execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, expression: str) -> Any:
        """Wait until a JavaScript expression is true; return its value."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not (value := self.run(f"return ({expression})")):
            if time.monotonic() > deadline:
                shown = self.run("return document.body.innerText")
                raise TimeoutError(f"{expression} did not become true:\n{shown}")
            time.sleep(LOOK_SECONDS)
        return value

    def type(self, selector: str, text: str) -> None:
        """Type into an element."""
        self._post(f"element/{self._element(selector)}/value", {"text": text})

    def click(self, selector: str) -> None:
        """Click on an element."""
        self._post(f"element/{self._element(selector)}/click", {})

    def resize(self, width: int, height: int) -> None:
        """Emulate a viewport, which may be smaller than a window of Chromium can be."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": size}
        self._post("goog/cdp/execute", command)

    def _element(self, selector: str) -> str:
        [name] = self._post("element", {"using": "css selector", "value": selector}).values()
        return name

    def console(self) -> list[str]:
        """Return the console's messages since the last call."""
        return [entry["message"] for entry in self._post("se/log", {"type": "browser"})]


def install() -> None:
    """Install the browser and its driver; fail where that is not possible."""
    debian.install(PACKAGES)


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """Run a browser with a new profile."""
    port = free_port()
    driver = subprocess.Popen(
        ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, driver)
        options = {
            "args": [*FLAGS, f"--user-data-dir={profile}"],
            "binary": shutil.which("chromium"),
        }
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        body = {"capabilities": {"alwaysMatch": capabilities}}
        made = httpx.post(f"{url}/session", json=body, timeout=WAIT_SECONDS).json()["value"]
        if "sessionId" not in made:
            raise RuntimeError(f"no browser: {made}")
        session = f"{url}/session/{made['sessionId']}"
        try:
            yield Page(session)
        finally:
            httpx.delete(session, timeout=WAIT_SECONDS)
    finally:
        driver.terminate()
        try:
            driver.wait(10)
        except subprocess.TimeoutExpired:
            driver.kill()
            driver.wait()


def _wait(url: str, driver: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while driver.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/status", timeout=60).json()["value"]["ready"]:
                return
        except httpx.TransportError:
            time.sleep(LOOK_SECONDS)
    raise RuntimeError("ChromeDriver does not start")
