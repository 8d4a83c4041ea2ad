"""The server and the browser that all tests of the console share, and what their tests have in common."""

import contextlib
import os
import pathlib
import time
import unittest

from playwright.sync_api import Page, expect

from harness import Api, Browser, Server, create_key

AXE = pathlib.Path(os.environ["AXE"]).read_text() if os.environ.get("AXE") else None
expect.set_options(timeout=15_000)


class Stage:
    """A server with API keys, calls of its admin, and a browser."""

    server: Server
    browser: Browser
    api: Api
    keys: dict[str, str]

    @contextlib.contextmanager
    def running(self):
        self.server = Server()
        self.browser = Browser(self.server)
        try:
            self._create_keys()
            yield
        finally:
            self.browser.close()
            code = self.server.stop()
            assert code == 0, f"the server exited with {code} on SIGTERM"

    def _create_keys(self) -> None:
        # Until the first key is created, the page needs none.
        page = self.browser.open(None)
        expect(page.get_by_text("There are no spirits yet")).to_be_visible()
        self.keys = {role: create_key(self.server, role, role) for role in ("admin", "writer", "reader")}
        expect_eventually(lambda: page.reload() and page.get_by_role("heading", name="Sign in").is_visible())
        page.context.close()
        self.api = Api(self.server, self.keys["admin"])


stage = Stage()


def expect_eventually(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "in time"
        time.sleep(0.1)


def minute(number: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:00Z", time.gmtime(1_780_000_000 + 60 * number))


def tool_session(spirit_id: str, session_id: str) -> None:
    """Stores a conversation with two calls, one of them failed, and long content."""
    steps = [
        ("message.in", "Hello **Ada**", {"role": "user", "author": "mira"}),
        ("thought", "I look it up.", {"author": "ada"}),
        ("tool.call", '{"query": "soil"}', {"meta": {"tool_call_id": "1", "tool_name": "search"}}),
        ("tool.call", '{"path": "x"}', {"meta": {"tool_call_id": "2", "tool_name": "read"}}),
        ("tool.result", "denied", {"meta": {"tool_call_id": "2", "is_error": True}}),
        ("tool.result", '{"hits": 3}', {"meta": {"tool_call_id": "1"}}),
        ("message.out", "\n".join(f"- line {n}" for n in range(200)), {"author": "ada", "importanceScore": 0.5}),
        ("message.in", "Thanks", {"role": "user", "author": "mira"}),
    ]
    for second, (event_type, content, fields) in enumerate(steps):
        stage.api.event(spirit_id, session_id, content, event_type, occurredAt=f"2026-05-02T08:00:{second:02d}.250Z", **fields)


class ConsoleTest(unittest.TestCase):
    def setUp(self):
        self.problems = []

    def tearDown(self):
        self.assertEqual(self.problems, [])

    def open(self, hash: str, role: str = "writer", **options) -> Page:
        """Opens the console. The test fails at the end if the page reported an error or a violation of its policy."""
        context = stage.browser.context(stage.keys[role], **options)
        self.addCleanup(context.close)
        page = context.new_page()
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("dialog", lambda dialog: (self.problems.append(f"dialog {dialog.message}"), dialog.dismiss()))
        # Replies such as 404 are logged by the browser too; the page shows them.
        page.on("console", lambda message: message.type == "error" and "Failed to load resource" not in message.text and self.problems.append(message.text))
        page.on("request", lambda request: request.url.startswith(stage.browser.address) or self.problems.append(request.url))
        page.goto(stage.browser.address + hash)
        return page

    def assert_accessible(self, page: Page, state: str) -> None:
        if AXE is None:
            return
        # Through the debugger, which the policy of the page does not apply to.
        session = page.context.new_cdp_session(page)
        session.send("Runtime.evaluate", {"expression": AXE + "; 0"})
        run = "axe.run(document, {resultTypes: ['violations']}).then((found) => found.violations.map((each) => "
        run += "each.id + ': ' + each.nodes.map((node) => node.html.slice(0, 200) + ' ' + node.failureSummary).join(' | ')))"
        reply = session.send("Runtime.evaluate", {"expression": run, "awaitPromise": True, "returnByValue": True})
        self.assertEqual(reply["result"].get("value"), [], f"{state}: {reply}")
