"""Tests of the keyboard, of screen readers, themes and widths."""

import re

from playwright.sync_api import Page, expect

from case import ConsoleTest, stage, tool_session
from harness import session_hash

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


class AccessibilityTest(ConsoleTest):
    def test_everything_can_be_reached_with_the_keyboard(self):
        spirit_id = stage.api.spirit("Keyboard")
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
        spirit_id = stage.api.spirit("Tab")
        tool_session(spirit_id, "chat")
        events = [stage.api.event(spirit_id, "chat", f"number {n}", author="mira") for n in range(150)]
        page = self.open("#/?q=Tab")
        expect(page.get_by_role("link", name="Tab")).to_be_visible()
        self.assertIn("Tab", self.tab_through(page, "spirits"))
        page.goto(stage.browser.address + f"#/spirits/{spirit_id}")
        expect(page.get_by_role("link", name="chat")).to_be_visible()
        self.assertIn("All events", self.tab_through(page, "sessions"))
        page.goto(stage.browser.address + session_hash(spirit_id, "chat", f"?event={events[100]['id']}&inspect=1"))
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
        expect(page.get_by_label("message.in")).to_be_focused()
        page.keyboard.press("g")
        self.assertIn("Cancel", self.tab_through(page, "dialog"))

    def test_each_view_is_accessible_in_both_themes_and_fits_a_narrow_screen(self):
        spirit_id = stage.api.spirit("Views", description="A description that is long enough to need more than a line on a narrow screen")
        tool_session(spirit_id, "chat")
        event = stage.api.event(spirit_id, "chat", "```\n" + "x" * 300 + "\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |", "message.out")
        views = ["#/", f"#/spirits/{spirit_id}", session_hash(spirit_id, "chat"), session_hash(spirit_id, "chat", f"?event={event['id']}&inspect=1")]
        for scheme, width in (("light", 1440), ("dark", 360)):
            page = self.open("#/", color_scheme=scheme, viewport={"width": width, "height": 800})
            for view in views:
                page.goto(stage.browser.address + view)
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
        page = stage.browser.open(None)
        self.addCleanup(page.context.close)
        expect(page.get_by_label("API key")).to_be_visible()
        self.assert_accessible(page, "sign in")
