"""Tests of the web console in a real browser.

EVENTS_BIN is the binary to test, CHROMIUM the browser, and AXE the file axe.min.js, without which accessibility is not
checked. LONG_SESSION is the number of events in the longest session, 3,000 without it.
"""

import functools
import os
import pathlib
import re
import threading
import time
import unittest

from playwright.sync_api import Page, expect

from harness import ROOT, Api, Browser, Server, create_key, session_hash
from payloads import PAYLOADS

AXE = pathlib.Path(os.environ["AXE"]).read_text() if os.environ.get("AXE") else None
LONG = int(os.environ.get("LONG_SESSION", 3_000))
expect.set_options(timeout=15_000)


def setUpModule():
    global server, browser, api, keys
    server = Server()
    browser = Browser(server)
    # Until the first key is created, the page needs none.
    page = browser.open(None)
    expect(page.get_by_text("There are no spirits yet")).to_be_visible()
    keys = {role: create_key(server, role, role) for role in ("admin", "writer", "reader")}
    expect_eventually(lambda: page.reload() and page.get_by_role("heading", name="Sign in").is_visible())
    page.context.close()
    api = Api(server, keys["admin"])


def tearDownModule():
    browser.close()
    code = server.stop()
    assert code == 0, f"the server exited with {code} on SIGTERM"


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
        api.event(spirit_id, session_id, content, event_type, occurredAt=f"2026-05-02T08:00:{second:02d}.250Z", **fields)


@functools.cache
def long_session() -> str:
    """Stores a session with LONG events and a long pause in the middle, and returns its spirit."""
    spirit_id = api.spirit("Long")
    api.events([
        {"spiritId": spirit_id, "sessionId": "long", "eventType": "message.in", "content": f"number {n}", "author": "mira", "occurredAt": minute(n if n < LONG // 2 else n + 4 * LONG)}
        for n in range(LONG)
    ])
    return spirit_id


class ConsoleTest(unittest.TestCase):
    def setUp(self):
        self.problems = []

    def tearDown(self):
        self.assertEqual(self.problems, [])

    def open(self, hash: str, role: str = "writer", **options) -> Page:
        """Opens the console. The test fails at the end if the page reported an error or a violation of its policy."""
        context = browser.context(keys[role], **options)
        self.addCleanup(context.close)
        page = context.new_page()
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("dialog", lambda dialog: (self.problems.append(f"dialog {dialog.message}"), dialog.dismiss()))
        # Replies such as 404 are logged by the browser too; the page shows them.
        page.on("console", lambda message: message.type == "error" and "Failed to load resource" not in message.text and self.problems.append(message.text))
        page.on("request", lambda request: request.url.startswith(browser.address) or self.problems.append(request.url))
        page.goto(browser.address + hash)
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


# In a page: the time from the arrival of the first reply with events until the frame that shows one has been painted.
PAINT_TIME = """
    window.painted = new Promise((resolve) => {
        const channel = new MessageChannel();
        channel.port1.onmessage = () => {
            const replies = performance.getEntriesByType('resource').filter(({ name }) => name.endsWith('ListEvents'));
            resolve(performance.now() - replies[0].responseEnd);
        };
        new MutationObserver((changes, observer) => {
            if (!document.querySelector('[role=feed] article')) return;
            observer.disconnect();
            requestAnimationFrame(() => channel.port2.postMessage(0));
        }).observe(document, { childList: true, subtree: true });
    });
"""
# In a page: the name of the element with the focus, what is wrong with it, and whether it had the focus before.
FOCUS = """() => {
    const element = document.activeElement;
    if (element === document.body) return ['', null, false]; // between the last element and the first one
    const isBack = element === window.firstStop;
    window.firstStop ??= element;
    const label = element.getAttribute('aria-label') ?? element.labels?.[0]?.querySelector('span')?.textContent ?? element.textContent;
    const shown = element.closest('tr') ?? (element.matches('article') ? element.querySelector('.card') : element);
    const { outlineStyle, outlineWidth } = getComputedStyle(shown);
    const { left, right, top, bottom } = element.getBoundingClientRect();
    let problem = null;
    if (outlineStyle === 'none' || parseFloat(outlineWidth) < 1) problem = 'the focus is not visible';
    if (right <= 0 || bottom <= 0 || left >= innerWidth || top >= innerHeight) problem = 'it is out of view';
    return [label.trim(), problem, isBack];
}"""
# In a page: scrolls from one part of a conversation to another, and waits for what is in view.
SCROLL = """async ([from, until]) => {
    const list = document.querySelector('[role=feed]');
    for (let step = 0; step <= 10; step++) {
        list.scrollTop = (from + (until - from) * step / 10) * list.scrollHeight;
        do await new Promise((done) => setTimeout(done, 20));
        while (list.querySelector('.row-loading'));
    }
}"""


def heap(session) -> float:
    """The bytes of the page's objects that are in use, after a garbage collection."""
    session.send("HeapProfiler.collectGarbage")
    metrics = session.send("Performance.getMetrics")["metrics"]
    return next(each["value"] for each in metrics if each["name"] == "JSHeapUsedSize")


class SignInTest(ConsoleTest):
    def test_a_key_is_asked_for_checked_and_kept_in_the_session_storage_only(self):
        page = browser.open(None)
        self.addCleanup(page.context.close)
        field = page.get_by_label("API key")
        field.fill("ek_0123456789ab_wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("does not accept this API key")
        field.fill(keys["reader"])
        field.press("Enter")
        expect(page.get_by_role("heading", name="Spirits")).to_be_visible()
        stores = page.evaluate("() => [JSON.stringify({...localStorage}), document.cookie, Object.values(sessionStorage)]")
        self.assertEqual(stores, ["{}", "", [keys["reader"]]])
        page.reload()
        expect(page.get_by_text("reader", exact=False).first).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        self.assertEqual(page.evaluate("() => sessionStorage.length"), 0)

    def test_readers_see_no_edits_and_a_revoked_key_ends_the_page_with_a_sentence(self):
        spirit_id = api.spirit("Reader")
        event = api.event(spirit_id, "s", "Hello")
        keys["revoked"] = create_key(server, "revoked", "reader")
        page = self.open(session_hash(spirit_id, "s", f"?event={event['id']}&inspect=1"), "revoked")
        details = page.get_by_role("complementary", name="Details")
        expect(details.get_by_text("Never changed.")).to_be_visible()
        expect(details.get_by_role("button", name="Copy id")).to_be_visible()
        for name in ("Edit", "Delete", "Rewind to here"):
            expect(details.get_by_role("button", name=name)).to_have_count(0)
        expect(page.get_by_role("button", name="Edit the title")).to_be_hidden()
        server.command("key", "revoke", keys["revoked"][:15])
        # The stream that follows ends by itself.
        expect(page.get_by_role("alert")).to_contain_text("was revoked or has expired")
        self.assertIsNone(page.evaluate("() => sessionStorage.getItem('elephantasm.key')"))


class ReadingTest(ConsoleTest):
    def test_from_the_spirits_to_a_conversation_with_folded_calls(self):
        spirit_id = api.spirit("Walk", description="Walks through everything")
        tool_session(spirit_id, "chat")
        api.call("SessionService/UpdateSession", {"spiritId": spirit_id, "sessionId": "chat", "title": "Soil", "owner": "mira"})
        page = self.open("#/")
        page.get_by_label("Filter spirits by name").fill("walk")
        page.get_by_role("link", name="Walk").click()
        expect(page.get_by_role("row", name="Soil")).to_contain_text("8 events")
        page.get_by_label("Filter sessions").fill("nothing")
        expect(page.get_by_text("No session passes the filter.")).to_be_visible()
        page.get_by_label("Filter sessions").fill("oi")
        page.get_by_role("link", name="Soil").click()

        expect(page.get_by_role("heading", name="Soil")).to_be_visible()
        expect(page.get_by_role("article")).to_have_count(6)
        expect(page.get_by_role("article", name="Message, mira").first.locator("strong")).to_have_text("Ada")
        call = page.get_by_role("article").filter(has_text="search")
        expect(call).to_contain_text("3.0 s")
        expect(page.get_by_role("article").filter(has_text="read")).to_contain_text("error · 1.0 s")
        expect(call.get_by_text("hits")).to_have_count(0)
        call.get_by_role("button", name="search").click()
        expect(call.get_by_text('"hits"')).to_be_visible()
        answer = page.get_by_role("article", name="Answer, ada")
        height = answer.bounding_box()["height"]
        answer.get_by_role("button", name="Show all").click()
        expect(answer.get_by_role("button", name="Show less")).to_be_visible()
        expect_eventually(lambda: answer.bounding_box()["height"] > 2 * height)

    def test_a_long_session_is_windowed_and_every_place_of_it_has_an_address(self):
        spirit_id = long_session()
        page = self.open(session_hash(spirit_id, "long"))
        article = lambda n: page.get_by_role("article").filter(has_text=re.compile(f"number {n}$"))
        expect(article(LONG - 1)).to_be_visible()
        page.keyboard.press("g")
        page.get_by_role("textbox", name="Event").fill("1234")
        page.keyboard.press("Enter")
        expect(article(1233)).to_be_in_viewport()
        expect(page.get_by_role("complementary", name="Details")).to_contain_text("Sequence1234")
        page.reload()
        expect(article(1233)).to_be_in_viewport()
        slider = page.get_by_role("slider", name="Time")
        slider.press("Home")
        expect(article(0)).to_be_in_viewport()
        box = slider.bounding_box()
        page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + 5)  # in the pause
        expect(article(LONG // 2)).to_be_in_viewport()
        page.get_by_label("Order").select_option("As stored")
        expect(page).to_have_url(re.compile("order=sequence"))
        expect(article(LONG // 2)).to_be_in_viewport()
        slider.press("Home")
        expect(article(0)).to_be_in_viewport()
        page.goto(browser.address + session_hash(spirit_id, "long", "?order=sequence"))
        page.keyboard.press("g")
        page.get_by_role("textbox", name="Event").fill("1234")
        page.keyboard.press("Enter")
        expect(article(1233)).to_be_in_viewport()
        page.evaluate("""async () => {
            const list = document.querySelector('[role=feed]');
            for (let step = 0; step < 60; step++) {
                list.scrollTop = (step / 60) * list.scrollHeight;
                await new Promise(requestAnimationFrame);
            }
            list.scrollTop = 0;
        }""")
        expect(article(3)).to_be_visible()
        self.assertLess(page.get_by_role("article").count(), 60)

    def test_a_long_session_is_painted_within_200_ms_of_the_reply_and_scrolling_takes_no_memory(self):
        page = self.open("#/")
        page.add_init_script(PAINT_TIME)
        address = browser.address + session_hash(long_session(), "long")
        page.goto(address)
        paints = [page.reload() and page.evaluate("() => painted") for _ in range(3)]
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        samples = [page.evaluate(SCROLL, [part / 8, (part + 1) / 8]) or heap(session) for part in range(8)]
        figures = "first paint after the reply: " + ", ".join(f"{each:.0f} ms" for each in paints)
        figures += "; heap while scrolling: " + ", ".join(f"{bytes / 1e6:.1f} MB" for bytes in samples)
        print(f"{LONG} events: {figures}", flush=True)
        self.assertLess(min(paints), 200, figures)
        self.assertLess(max(samples[1:]), samples[0] + 4e6, figures)

    def test_the_order_as_stored_pairs_a_call_with_its_result_when_the_clock_was_set_back(self):
        spirit_id = api.spirit("Clock")
        paired = {"meta": {"tool_call_id": "1", "tool_name": "search"}}
        api.event(spirit_id, "s", "Look it up", occurredAt="2026-05-02T08:00:00Z")
        api.event(spirit_id, "s", '{"query": "soil"}', "tool.call", occurredAt="2026-05-02T08:30:00Z", **paired)
        api.event(spirit_id, "s", "3 hits", "tool.result", occurredAt="2026-05-02T08:20:30Z", **paired)
        page = self.open(session_hash(spirit_id, "s"))
        articles = page.get_by_role("article")
        call = articles.filter(has_text="soil")
        expect(call).to_contain_text("no result here")
        expect(articles).to_have_count(3)
        page.keyboard.press("s")
        expect(articles).to_have_count(2)
        expect(call).to_contain_text("−9 min 30 s")
        page.reload()
        expect(page.get_by_label("Order")).to_have_value("sequence")
        expect(page.get_by_role("button", name="Follow new events: Live")).to_be_visible()
        api.event(spirit_id, "s", "An hour before", occurredAt="2026-05-02T07:00:00Z")
        expect(articles.last).to_contain_text("An hour before")
        page.get_by_label("Order").select_option("By time")
        expect(articles.first).to_contain_text("An hour before")
        self.assertNotIn("order", page.url)

    def test_imported_transcripts_are_conversations(self):
        spirit_id = api.spirit("Transcripts")
        files = [str(ROOT / f"tests/formats/files/{name}.jsonl") for name in ("claude-code", "codex")]
        server.command("import", *files, "--spirit", spirit_id, environment={"EVENTS_API_KEY": keys["admin"]})
        for session_id, title, rows, names in (("cc-1", "Rounding in the basket", 12, ["Bash", "Task"]), ("cx-1", "List files", 13, ["shell", "apply_patch"])):
            page = self.open(session_hash(spirit_id, session_id))
            expect(page.get_by_role("heading", name=title)).to_be_visible()
            expect(page.get_by_role("article")).to_have_count(rows)
            for name in names:
                call = page.get_by_role("article", name="Tool call").filter(has_text=name)
                expect(call).not_to_contain_text("no result")
                call.get_by_role("button", expanded=False).first.click()
                expect(call.get_by_text("Result", exact=True)).to_be_visible()

    def test_filters_are_part_of_the_address(self):
        spirit_id = api.spirit("Filters")
        tool_session(spirit_id, "chat")
        page = self.open(session_hash(spirit_id, "chat"))
        expect(page.get_by_role("article")).to_have_count(6)
        page.get_by_role("button", name="Filters").click()
        page.get_by_label("message.in").check()
        expect(page.get_by_role("article")).to_have_count(2)
        page.get_by_label("message.out").check()
        expect(page.get_by_role("article")).to_have_count(3)
        page.reload()
        expect(page.get_by_role("article")).to_have_count(3)
        page.get_by_role("button", name="Filters").click()
        page.get_by_label("Importance at least").fill("0.4")
        expect(page.get_by_role("article")).to_have_count(1)
        page.get_by_label("Importance at least").fill("0.6")
        expect(page.get_by_text("No event passes the filters.")).to_be_visible()
        page.get_by_role("button", name="Clear filters").click()
        expect(page.get_by_role("article")).to_have_count(6)
        self.assertNotIn("types", page.url)


class FollowTest(ConsoleTest):
    def test_new_events_appear_and_the_place_is_kept_while_one_reads_up(self):
        spirit_id = api.spirit("Follow")
        for n in range(60):
            api.event(spirit_id, "s", f"number {n}")
        page = self.open(session_hash(spirit_id, "s"))
        expect(page.get_by_role("button", name="Follow new events: Live")).to_be_visible()
        writer = threading.Thread(target=lambda: [api.event(spirit_id, "s", f"live {n}") for n in range(20)])
        writer.start()
        expect(page.get_by_text("live 19")).to_be_in_viewport()
        writer.join()
        page.keyboard.press("Home")
        first = page.get_by_role("article").filter(has_text="number 0")
        expect(first).to_be_in_viewport()
        place = first.bounding_box()["y"]
        for n in range(3):
            api.event(spirit_id, "s", f"later {n}")
        pill = page.get_by_role("button", name="3 new events")
        expect(pill).to_be_visible()
        self.assertEqual(first.bounding_box()["y"], place)
        pill.click()
        expect(page.get_by_text("later 2")).to_be_in_viewport()
        expect(pill).to_be_hidden()
        expect(page.get_by_text("83 events")).to_be_visible()
        # An event that occurred earlier is put where it belongs.
        api.event(spirit_id, "s", "long ago", occurredAt="2020-01-01T00:00:00Z")
        expect(page.get_by_text("84 events")).to_be_visible()
        page.keyboard.press("Home")
        expect(page.get_by_text("long ago")).to_be_in_viewport()


    def test_what_other_clients_edit_delete_and_restore_appears_and_the_place_is_kept(self):
        spirit_id = api.spirit("Others")
        events = [api.event(spirit_id, "s", f"number {n}") for n in range(60)]
        other = api.event(spirit_id, "other session", "elsewhere")
        context = browser.context(keys["reader"])
        self.addCleanup(context.close)
        page = context.new_page()
        broken = iter(range(2))  # the stream is opened again after it could not be opened twice
        page.route("**/*WatchChanges", lambda route: route.abort() if next(broken, None) is not None else route.continue_())
        page.goto(browser.address + session_hash(spirit_id, "s", f"?event={events[30]['id']}&inspect=1"))
        row = lambda n: page.get_by_role("article").filter(has_text=re.compile(f"number {n}$"))
        details = page.get_by_role("complementary", name="Details")
        expect(row(30)).to_be_in_viewport()
        place = row(31).bounding_box()["y"]
        update = lambda n, **fields: api.call("EventService/UpdateEvent", {"eventId": events[n]["id"]} | fields)

        update(30, metaSummary="Edited elsewhere")
        expect(row(30)).to_contain_text("Edited elsewhere")
        expect(details).to_contain_text("Edited elsewhere")
        expect_eventually(lambda: row(31).bounding_box()["y"] > place)
        place = row(31).bounding_box()["y"]
        api.call("EventService/SoftDeleteEvent", {"eventId": events[0]["id"]})
        expect(page.get_by_text("59 events")).to_be_visible()
        self.assertAlmostEqual(row(31).bounding_box()["y"], place, delta=1)
        api.call("EventService/SoftDeleteEvents", {"spiritId": spirit_id, "sessionId": "s", "afterSequence": "31"})
        expect(row(31)).to_have_count(0)
        expect(page.get_by_text("30 events")).to_be_visible()
        api.call("EventService/RestoreEvent", {"eventId": events[31]["id"]})
        expect(row(31)).to_be_visible()
        api.call("EventService/SoftDeleteEvent", {"eventId": events[30]["id"]})
        expect(row(30)).to_have_count(0)
        expect(details).to_contain_text("Deleted")

        # Changes of other sessions are of no concern.
        counted = []
        page.on("request", lambda request: "CountEvents" in request.url and counted.append(request.url))
        api.call("EventService/SoftDeleteEvent", {"eventId": other["id"]})
        update(31, metaSummary="The last edit")
        expect(row(31)).to_contain_text("The last edit")
        self.assertEqual(counted, [])


class EditTest(ConsoleTest):
    def test_edits_deletions_and_rewinds_are_made_shown_and_undone(self):
        spirit_id = api.spirit("Edits")
        events = [api.event(spirit_id, "s", f"number {n}") for n in range(5)]
        page = self.open(session_hash(spirit_id, "s", f"?event={events[1]['id']}&inspect=1"))
        details = page.get_by_role("complementary", name="Details")
        undo = page.get_by_role("status").get_by_role("button", name="Undo")
        stored = lambda: api.call("EventService/GetEvent", {"eventId": events[1]["id"], "includeDeleted": True})["event"]

        details.get_by_role("button", name="Edit").click()
        page.get_by_label("Summary").fill("Second")
        page.get_by_label("Importance").fill("0.25")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("article").filter(has_text="Second")).to_contain_text("0.25")
        expect(details).to_contain_text("Edited")
        self.assertEqual((stored()["metaSummary"], stored()["importanceScore"]), ("Second", 0.25))
        undo.click()
        expect(page.get_by_role("article").filter(has_text="Second")).to_have_count(0)
        expect_eventually(lambda: "metaSummary" not in stored())

        details.get_by_role("button", name="Delete").click()
        expect(page.get_by_role("article")).to_have_count(4)
        undo.click()
        expect(page.get_by_role("article")).to_have_count(5)
        expect(details).to_contain_text("Restored")

        details.get_by_role("button", name="Rewind to here").click()
        page.get_by_role("dialog").get_by_role("button", name="Rewind").click()
        expect(page.get_by_role("article")).to_have_count(2)
        undo.click()
        expect(page.get_by_role("article")).to_have_count(5)

        page.get_by_role("button", name="Edit the title").click()
        page.get_by_role("textbox", name="Title").fill("Numbers")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("heading", name="Numbers")).to_be_visible()
        undo.click()
        expect(page.get_by_role("heading", name="s", exact=True)).to_be_visible()


class AccessibilityTest(ConsoleTest):
    def test_everything_can_be_reached_with_the_keyboard(self):
        spirit_id = api.spirit("Keyboard")
        tool_session(spirit_id, "chat")
        page = self.open("#/?q=Keyboard")
        expect(page.get_by_role("link", name="Keyboard")).to_be_visible()
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        expect(page.get_by_role("link", name="chat")).to_be_visible()
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        expect(page.get_by_role("article")).to_have_count(6)
        page.keyboard.press("Home")
        page.keyboard.press("j")
        page.keyboard.press("j")
        call = page.get_by_role("article").filter(has_text="search")
        expect(call).to_be_focused()
        page.keyboard.press("o")
        expect(call.get_by_text('"hits"')).to_be_visible()
        page.keyboard.press("Enter")
        details = page.get_by_role("complementary", name="Details")
        expect(details).to_be_focused()
        page.keyboard.press("Escape")
        expect(details).to_be_hidden()
        expect(call).to_be_focused()
        page.keyboard.press("Delete")
        expect(page.get_by_role("status").get_by_role("button", name="Undo")).to_be_visible()
        page.keyboard.press("?")
        expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
        page.keyboard.press("Escape")
        page.keyboard.press("u")
        expect(page.get_by_role("heading", name="Keyboard")).to_be_visible()
        page.keyboard.press("u")
        expect(page.get_by_role("heading", name="Spirits")).to_be_visible()

    def tab_through(self, page: Page, state: str) -> list[str]:
        """Presses Tab until the focus is back where it began, forwards and backwards, and returns the names of the stops."""
        page.wait_for_function("() => !document.querySelector('.row-loading')")
        stops = []
        for key in ("Tab", "Shift+Tab"):
            page.evaluate("() => { document.activeElement.blur(); window.firstStop = undefined }")
            for number in range(100):
                page.keyboard.press(key)
                name, problem, isBack = page.evaluate(FOCUS)
                if isBack:
                    break
                self.assertIsNone(problem, f"{state}, {key}: {name}")
                stops += [name] if key == "Tab" else []
            self.assertLess(number, 99, f"{state}: {key} does not come back to where it began")
        return stops

    def test_tab_goes_through_every_view_and_the_focus_is_always_visible(self):
        spirit_id = api.spirit("Tab")
        tool_session(spirit_id, "chat")
        events = [api.event(spirit_id, "chat", f"number {n}", author="mira") for n in range(150)]
        page = self.open("#/?q=Tab")
        expect(page.get_by_role("link", name="Tab")).to_be_visible()
        self.assertIn("Tab", self.tab_through(page, "spirits"))
        page.goto(browser.address + f"#/spirits/{spirit_id}")
        expect(page.get_by_role("link", name="chat")).to_be_visible()
        self.assertIn("All events", self.tab_through(page, "sessions"))
        page.goto(browser.address + session_hash(spirit_id, "chat", f"?event={events[100]['id']}&inspect=1"))
        expect(page.get_by_text("Never changed.")).to_be_visible()
        page.get_by_role("button", name="Filters").click()
        stops = self.tab_through(page, "conversation")
        # The list is one stop, the current row another one with its control, whatever the number of rows.
        row = stops.index("Message, mira, " + events[100]["occurredAt"][11:19])
        self.assertEqual(stops[row - 1 : row + 3], ["Events", stops[row], f"Details of event {events[100]['sequence']}", "Close details"])
        for expected in ("Edit the title", "Order", "Deleted events too", "Time", "Rewind to here", "Event as JSON"):
            self.assertIn(expected, stops)
        page.get_by_role("button", name="Clear filters").focus()
        page.keyboard.press("Enter")
        self.tab_through(page, "after the filters were cleared")
        page.keyboard.press("g")
        self.assertIn("Cancel", self.tab_through(page, "dialog"))

    def test_each_view_is_accessible_in_both_themes_and_fits_a_narrow_screen(self):
        spirit_id = api.spirit("Views", description="A description that is long enough to need more than a line on a narrow screen")
        tool_session(spirit_id, "chat")
        event = api.event(spirit_id, "chat", "```\n" + "x" * 300 + "\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |", "message.out")
        views = ["#/", f"#/spirits/{spirit_id}", session_hash(spirit_id, "chat"), session_hash(spirit_id, "chat", f"?event={event['id']}&inspect=1")]
        for scheme, width in (("light", 1440), ("dark", 360)):
            page = self.open("#/", color_scheme=scheme, viewport={"width": width, "height": 800})
            for view in views:
                page.goto(browser.address + view)
                page.reload()
                expect(page.locator("main a[data-item], main article").first).to_be_attached()
                if "inspect" in view:
                    expect(page.get_by_text("Never changed.")).to_be_visible()
                self.assert_accessible(page, f"{scheme} {view}")
                self.assertEqual(page.evaluate("() => document.documentElement.scrollWidth"), width, view)
        background = lambda: page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        dark = background()
        page.get_by_role("button", name="Close details").click()
        page.get_by_role("button", name="Filters").click()
        self.assert_accessible(page, "filters")
        for _ in range(2):  # from that of the system over light to dark
            page.get_by_role("button", name=re.compile("^Theme")).click()
            light, expected = (background(), dark) if _ == 0 else (light, background())
        self.assertNotEqual(light, dark)
        self.assertEqual(expected, dark)
        page = browser.open(None)
        self.addCleanup(page.context.close)
        expect(page.get_by_label("API key")).to_be_visible()
        self.assert_accessible(page, "sign in")


class HostileContentTest(ConsoleTest):
    def test_no_field_of_any_resource_can_run_a_script_or_load_anything(self):
        spirit_id = api.spirit(PAYLOADS[0], description=PAYLOADS[5])
        session_id = "<img src=x onerror=window.ran=1>"
        types = ["message.in", "message.out", "thought", "tool.call", "tool.result", "system", "error", "context.compaction"]
        api.events([
            {
                "spiritId": spirit_id, "sessionId": session_id, "content": payload, "metaSummary": payload, "role": payload[:50],
                "eventType": types[n % 9] if n % 9 < 8 else payload[:100], "author": payload[:255], "sourceUri": payload, "dedupeKey": f"{n}{payload}"[:255],
                "meta": {payload: payload, "tool_name": payload, "tool_call_id": payload, "model": payload, "agent_path": [payload],
                         "parts": [{"type": "image", "source": {"media_type": payload, "url": payload}}, {"type": payload, "path": payload}]},
            }
            for n, payload in enumerate(PAYLOADS)
        ])
        api.call("SessionService/UpdateSession", {"spiritId": spirit_id, "sessionId": session_id, "title": PAYLOADS[5], "owner": PAYLOADS[10]})
        page = self.open("#/?q=script", "writer")
        page.get_by_role("link", name="script").first.click()
        page.locator("a[data-item]").first.click()
        expect(page.get_by_text(f"{len(PAYLOADS)} events")).to_be_visible()
        found = page.evaluate("""async () => {
            const list = document.querySelector('[role=feed]');
            const allowed = /^(https?:|mailto:)/;
            const found = new Set();
            const seen = new Set();
            for (list.scrollTop = 0; ; list.scrollTop += 400) {
                do await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 10)));
                while (list.querySelector('.row-loading'));
                for (const button of list.querySelectorAll('[data-fold][aria-expanded=false]')) button.click();
                for (const row of list.querySelectorAll('article')) seen.add(row.dataset.eventId);
                for (const node of list.querySelectorAll('*')) {
                    if (/^(script|img|iframe|object|embed|video|audio|source|style|link|meta|base|form|math|template|body)$/i.test(node.tagName)) found.add(node.tagName);
                    for (const { name } of node.attributes) if (/^on|srcdoc|srcset/.test(name)) found.add(name);
                    if (node.tagName === 'A' && !allowed.test(node.href)) found.add(node.href);
                }
                if (list.scrollTop + list.clientHeight >= list.scrollHeight - 2) break;
            }
            return [[...found], seen.size, window.ran ?? null];
        }""")
        self.assertEqual(found[0], [])
        self.assertGreater(found[1], 0.8 * len(PAYLOADS))
        self.assertIsNone(found[2])
        for _ in range(3):
            page.keyboard.press("k")
            page.keyboard.press("Enter")
            details = page.get_by_role("complementary", name="Details")
            expect(details.get_by_text("Never changed.")).to_be_visible()
            for summary in details.locator("summary").all():
                summary.click()
            page.keyboard.press("Escape")
        self.assertIsNone(page.evaluate("() => window.ran ?? null"))
        # The address is content too.
        for hash in ("#/<img src=x onerror=window.ran=1>", f"#/spirits/{spirit_id}?q=<script>window.ran=1</script>&by=__proto__", "#/spirits/%ff?event=<svg onload=window.ran=1>"):
            page.goto(browser.address + hash)
            page.wait_for_timeout(50)
        self.assertIsNone(page.evaluate("() => window.ran ?? null"))


if __name__ == "__main__":
    unittest.main()
