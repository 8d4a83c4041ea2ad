"""Tests of a session with many events: LONG_SESSION of them, 3,000 without it."""

import functools
import os
import re

from playwright.sync_api import expect

from case import ConsoleTest, minute, stage
from harness import session_hash

LONG = int(os.environ.get("LONG_SESSION", 3_000))

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
# In a page: scrolls from one part of a conversation to another, and waits for what is in view.
SCROLL = """async ([from, until]) => {
    const list = document.querySelector('[role=feed]');
    for (let step = 0; step <= 10; step++) {
        list.scrollTop = (from + (until - from) * step / 10) * list.scrollHeight;
        do await new Promise((done) => setTimeout(done, 20));
        while (list.querySelector('.row-loading'));
    }
}"""


@functools.cache
def long_session() -> str:
    """Stores a session with LONG events and a long pause in the middle, and returns its spirit."""
    spirit_id = stage.api.spirit("Long")
    stage.api.events([
        {"spiritId": spirit_id, "sessionId": "long", "eventType": "message.in", "content": f"number {n}", "author": "mira", "occurredAt": minute(n if n < LONG // 2 else n + 4 * LONG)}
        for n in range(LONG)
    ])
    return spirit_id


def heap(session) -> float:
    """The bytes of the page's objects that are in use, after a garbage collection."""
    session.send("HeapProfiler.collectGarbage")
    metrics = session.send("Performance.getMetrics")["metrics"]
    return next(each["value"] for each in metrics if each["name"] == "JSHeapUsedSize")


class LongSessionTest(ConsoleTest):
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
        page.goto(stage.browser.address + session_hash(spirit_id, "long", "?order=sequence"))
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
        address = stage.browser.address + session_hash(long_session(), "long")
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
