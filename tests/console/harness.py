"""A server with API keys, and a browser that shows its console.

CHROMIUM names the browser. CONSOLE_DIR=console takes the files from this directory instead of the binary, so that a change
shows without a build.
"""

import json
import mimetypes
import os
import pathlib
import re
import sys
import urllib.parse
import urllib.request

from playwright.sync_api import BrowserContext, Page, Route, sync_playwright

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/shared"))
from binary import Server  # noqa: E402

KEY = "elephantasm.key"


class Api:
    """Calls of a server over Connect with JSON."""

    def __init__(self, server: Server, key: str | None = None):
        self.server, self.key = server, key

    def call(self, method: str, request: dict) -> dict:
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {self.key}"} if self.key else {})
        url = f"http://{self.server.address}/elephantasm.events.v1.{method}"
        data = json.dumps(request).encode()
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as reply:
            return json.load(reply)

    def spirit(self, name: str, **fields) -> str:
        return self.call("SpiritService/CreateSpirit", {"name": name} | fields)["spirit"]["id"]

    def event(self, spirit_id: str, session_id: str, content: str, event_type: str = "message.in", **fields) -> dict:
        request = {"spiritId": spirit_id, "sessionId": session_id, "eventType": event_type, "content": content}
        return self.call("EventService/CreateEvent", request | fields)["event"]

    def events(self, requests: list[dict]) -> None:
        for start in range(0, len(requests), 500):
            self.call("EventService/BatchCreateEvents", {"requests": requests[start : start + 500]})


def create_key(server: Server, name: str, role: str) -> str:
    return re.search(r"ek_\S+", server.command("key", "create", "--name", name, "--role", role))[0]


def from_directory(route: Route) -> None:
    """Answers a request for a file with the headers of the server and the content of the directory."""
    path = urllib.parse.urlparse(route.request.url).path.removeprefix("/console/").lstrip("/") or "index.html"
    reply = route.fetch()
    if reply.status == 404:  # a file that the binary does not have yet
        reply = route.fetch(url=urllib.parse.urljoin(route.request.url, "/"))
    headers = {name: value for name, value in reply.headers.items() if name not in ("content-length", "etag")}
    headers["content-type"] = mimetypes.guess_type(path)[0]
    route.fulfill(status=200, headers=headers, body=pathlib.Path(os.environ["CONSOLE_DIR"], path).read_bytes())


class Browser:
    """Chromium, without a window."""

    def __init__(self, server: Server):
        self.address = f"http://{server.address}/"
        self.playwright = sync_playwright().start()
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        self.browser = self.playwright.chromium.launch(executable_path=os.environ["CHROMIUM"], args=arguments)

    def context(self, key: str | None, **options) -> BrowserContext:
        options = {"viewport": {"width": 1440, "height": 900}, "locale": "en-GB", "timezone_id": "UTC"} | options
        context = self.browser.new_context(**options)
        context.set_default_timeout(15_000)
        if os.environ.get("CONSOLE_DIR"):
            context.route(re.compile(r"/console/|/$"), from_directory)
        if key:
            # Only if the tab has no key of its own, so that a page can lose its key.
            script = f"if (!sessionStorage.getItem('set')) {{ sessionStorage.setItem('{KEY}', '{key}'); sessionStorage.setItem('set', '1') }}"
            context.add_init_script(script)
        return context

    def open(self, key: str | None, hash: str = "#/", **options) -> Page:
        page = self.context(key, **options).new_page()
        page.goto(self.address + hash)
        return page

    def close(self) -> None:
        self.browser.close()
        self.playwright.stop()


def session_hash(spirit_id: str, session_id: str, query: str = "") -> str:
    return f"#/spirits/{spirit_id}/sessions/{session_id}{query}"
