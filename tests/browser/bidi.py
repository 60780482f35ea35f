"""Drives a headless browser by WebDriver BiDi, the W3C's protocol, which Chromium and Firefox both speak."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from websockets.sync.client import ClientConnection, connect

# The programs by their names on Debian, Ubuntu and macOS with Homebrew.
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FIREFOX = ("firefox-esr", "firefox")

# What Firefox looks up on its own is switched off: the tests count its requests.
_FIREFOX_PREFERENCES = {
    "app.normandy.enabled": False,
    "app.update.disabledForTesting": True,
    "browser.aboutwelcome.enabled": False,
    "browser.newtabpage.enabled": False,
    "browser.safebrowsing.downloads.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.page": 0,
    "datareporting.policy.dataSubmissionEnabled": False,
    "extensions.update.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "toolkit.telemetry.reportingpolicy.firstRun": False,
}

# WebDriver's code points for keys.
KEYS = {
    "Backspace": "\ue003",
    "Tab": "\ue004",
    "Enter": "\ue007",
    "Escape": "\ue00c",
    "ArrowLeft": "\ue012",
    "ArrowRight": "\ue014",
}


class Unavailable(RuntimeError):
    """A browser or its driver is not installed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """An entry of the console, or an error that no code caught."""

    level: str
    text: str


class Browser:
    """A browser with one tab.

    Attributes:
      name: `chromium` or `firefox`.
      messages: what the console has said.
      requests: the addresses of all requests, without those of `data:`.
    """

    def __init__(self, name: str, socket: ClientConnection):
        self.name = name
        self.messages: list[Message] = []
        self.requests: list[str] = []
        self._socket = socket
        self._next = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._arrived = threading.Condition()
        self._ended: BaseException | None = None
        self._tab = ""
        threading.Thread(target=self._receive, name=f"bidi-{name}", daemon=True).start()

    def begin(self) -> None:
        """Opens the tab and begins to listen."""
        # Firefox's first tab never gets the focus without a screen, and nothing in it matches :focus.
        self._tab = self.send("browsingContext.create", type="tab")["context"]
        self.send("browsingContext.activate", context=self._tab)
        self.send("session.subscribe", events=["log.entryAdded", "network.beforeRequestSent"])

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a command and returns its result."""
        with self._arrived:
            self._next += 1
            number = self._next
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        with self._arrived:
            arrived = self._arrived.wait_for(lambda: number in self._answers or self._ended, timeout=60)
            if not arrived or number not in self._answers:
                raise TimeoutError(f"{self.name} does not answer {method} ({self._ended})")
            answer = self._answers.pop(number)
        if answer["type"] == "error":
            raise RuntimeError(f"{method}: {answer['error']}: {answer['message']}")
        return answer["result"]

    def _receive(self) -> None:
        try:
            for text in self._socket:
                message = json.loads(text)
                if message.get("type") == "event":
                    self._note(message["method"], message["params"])
                    continue
                with self._arrived:
                    self._answers[message["id"]] = message
                    self._arrived.notify_all()
        except Exception as error:
            self._ended = error
        with self._arrived:
            self._ended = self._ended or EOFError("the connection was closed")
            self._arrived.notify_all()

    def _note(self, event: str, params: dict[str, Any]) -> None:
        if event == "log.entryAdded":
            self.messages.append(Message(params["level"], params.get("text") or ""))
        elif event == "network.beforeRequestSent":
            url = params["request"]["url"]
            if not url.startswith("data:"):
                self.requests.append(url)

    # ---- what tests do

    def open(self, address: str) -> None:
        """Opens an address and waits until the page and its scripts are loaded."""
        self.send("browsingContext.navigate", context=self._tab, url=address, wait="complete")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, which must be something that JSON can hold. A promise is awaited."""
        result = self.send(
            "script.evaluate",
            expression=f"(async () => JSON.stringify((await ({expression})) ?? null))()",
            target={"context": self._tab},
            awaitPromise=True,
        )
        if result["type"] == "exception":
            raise RuntimeError(result["exceptionDetails"]["text"])
        return json.loads(result["result"]["value"])

    def run(self, script: str) -> None:
        """Runs a script."""
        target = {"context": self._tab}
        result = self.send("script.evaluate", expression=f"{script}\n;null", target=target, awaitPromise=False)
        if result["type"] == "exception":
            raise RuntimeError(result["exceptionDetails"]["text"])

    def wait(self, expression: str, seconds: float = 20) -> None:
        """Waits until an expression is true."""
        until = time.monotonic() + seconds
        while not self.evaluate(f"!!({expression})"):
            if time.monotonic() > until:
                raise TimeoutError(f"{self.name}: {expression} is not true after {seconds:g} s")
            time.sleep(0.02)

    def go(self, address: str) -> None:
        """Goes to a view of the page, such as `#classes`, and waits until it is shown."""
        self.evaluate(f"void (location.hash = {json.dumps(address)})")
        self.shown(address)

    def shown(self, address: str) -> None:
        """Waits until a view is shown."""
        self.wait(f"document.getElementById('main').dataset.shown === {json.dumps(address)}")

    def press(self, *keys: str) -> None:
        """Presses keys one after another, named as in `KEYS` or by their character."""
        for key in keys:
            value = KEYS.get(key, key)
            strokes = [{"type": kind, "value": value} for kind in ("keyDown", "keyUp")]
            source = {"type": "key", "id": "keyboard", "actions": strokes}
            self.send("input.performActions", context=self._tab, actions=[source])

    def resize(self, width: int, height: int, ratio: float = 1.0) -> None:
        """Sets the size of the page in CSS pixels, and the pixels of the screen for each."""
        viewport = {"width": width, "height": height}
        self.send("browsingContext.setViewport", context=self._tab, viewport=viewport, devicePixelRatio=ratio)

    def screenshot(self, whole: bool = False, clip: dict[str, float] | None = None) -> bytes:
        """A PNG of what is seen, of the whole page, or of a rectangle of it in CSS pixels."""
        where: dict[str, Any] = {"origin": "document" if whole or clip else "viewport"}
        if clip:
            where["clip"] = {"type": "box", **clip}
        answer = self.send("browsingContext.captureScreenshot", context=self._tab, **where)
        return base64.b64decode(answer["data"])


@contextlib.contextmanager
def chromium(*, dark: bool = False) -> Iterator[Browser]:
    """A headless Chromium, driven through chromedriver.

    Raises:
      Unavailable: it is not installed.
    """
    program, driver = _program(CHROMIUM, "FULLGRAD_CHROMIUM"), _program(("chromedriver",), "FULLGRAD_CHROMEDRIVER")
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        options = {
            "binary": program,
            "args": [
                "--headless=new",
                "--no-sandbox",  # tests may run as root
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                "--disable-background-networking",
                "--no-first-run",
                f"--user-data-dir={profile}",
                f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            ],
        }
        capabilities = {"browserName": "chrome", "webSocketUrl": True, "goog:chromeOptions": options}
        with _process([driver, "--port=0"], r"started successfully on port (\d+)") as port:
            base = f"http://127.0.0.1:{port}/session"
            session = _post(base, {"capabilities": {"alwaysMatch": capabilities}})["value"]
            try:
                with connect(session["capabilities"]["webSocketUrl"], max_size=None, proxy=None) as socket:
                    browser = Browser("chromium", socket)
                    browser.begin()
                    yield browser
            finally:
                request = urllib.request.Request(f"{base}/{session['sessionId']}", method="DELETE")
                _open(request).close()


@contextlib.contextmanager
def firefox(*, dark: bool = False) -> Iterator[Browser]:
    """A headless Firefox, which needs no driver.

    Raises:
      Unavailable: it is not installed.
    """
    program = _program(FIREFOX, "FULLGRAD_FIREFOX")
    with tempfile.TemporaryDirectory(prefix="firefox-", ignore_cleanup_errors=True) as profile:
        preferences = {**_FIREFOX_PREFERENCES, "layout.css.prefers-color-scheme.content-override": 0 if dark else 1}
        lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in preferences.items()]
        pathlib.Path(profile, "user.js").write_text("".join(lines))
        command = [program, "--headless", "--no-remote", "--remote-debugging-port=0", "--profile", profile]
        with (
            _process(command, r"WebDriver BiDi listening on (ws://\S+)") as address,
            connect(f"{address}/session", max_size=None, proxy=None) as socket,
        ):
            browser = Browser("firefox", socket)
            browser.send("session.new", capabilities={})
            browser.begin()
            yield browser
            with contextlib.suppress(Exception):  # it closes the connection at the same time
                browser.send("browser.close")


BROWSERS = {"chromium": chromium, "firefox": firefox}


def _program(names: tuple[str, ...], variable: str) -> str:
    """The path of a program: the variable's, or the first of the names that is installed."""
    for name in (os.environ.get(variable, ""), *names):
        if name and (found := shutil.which(name)):
            return found
    raise Unavailable(f"{names[0]} is not installed (or name it in {variable})")


@contextlib.contextmanager
def _process(command: list[str], announced: str) -> Iterator[str]:
    """Runs a program; gives what it announces in its output. The program and its children end with the block."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        env={**os.environ, "MOZ_HEADLESS": "1", "HOME": os.environ.get("HOME", "/tmp")},
    )
    assert process.stdout is not None
    said: list[str] = []
    found: list[str] = []
    ready = threading.Event()

    def read() -> None:
        for line in process.stdout or ():
            said.append(line)
            if (match := re.search(announced, line)) and not found:
                found.append(match.group(1))
                ready.set()
        ready.set()

    threading.Thread(target=read, daemon=True).start()
    try:
        ready.wait(60)
        if not found:
            raise RuntimeError(f"{command[0]} did not start: {''.join(said[-5:])}")
        yield found[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()


def _post(address: str, value: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(address, json.dumps(value).encode(), {"Content-Type": "application/json"})
    with _open(request) as answer:
        return json.load(answer)


def _open(request: urllib.request.Request) -> Any:
    # A proxy of the environment does not know this machine's own addresses.
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60)
