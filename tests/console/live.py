"""Tests of conversations that change while they are open."""

import re
import threading

from playwright.sync_api import expect

from case import ConsoleTest, expect_eventually, stage
from harness import session_hash


class FollowTest(ConsoleTest):
    def test_new_events_appear_and_the_place_is_kept_while_one_reads_up(self):
        spirit_id = stage.api.spirit("Follow")
        for n in range(60):
            stage.api.event(spirit_id, "s", f"number {n}")
        page = self.open(session_hash(spirit_id, "s"))
        expect(page.get_by_role("button", name="Follow new events: Live")).to_be_visible()
        writer = threading.Thread(target=lambda: [stage.api.event(spirit_id, "s", f"live {n}") for n in range(20)])
        writer.start()
        expect(page.get_by_text("live 19")).to_be_in_viewport()
        writer.join()
        page.keyboard.press("Home")
        first = page.get_by_role("article").filter(has_text="number 0")
        expect(first).to_be_in_viewport()
        place = first.bounding_box()["y"]
        for n in range(3):
            stage.api.event(spirit_id, "s", f"later {n}")
        pill = page.get_by_role("button", name="3 new events")
        expect(pill).to_be_visible()
        self.assertEqual(first.bounding_box()["y"], place)
        pill.click()
        expect(page.get_by_text("later 2")).to_be_in_viewport()
        expect(pill).to_be_hidden()
        expect(page.get_by_text("83 events")).to_be_visible()
        # An event that occurred earlier is put where it belongs.
        stage.api.event(spirit_id, "s", "long ago", occurredAt="2020-01-01T00:00:00Z")
        expect(page.get_by_text("84 events")).to_be_visible()
        page.keyboard.press("Home")
        expect(page.get_by_text("long ago")).to_be_in_viewport()


    def test_what_other_clients_edit_delete_and_restore_appears_and_the_place_is_kept(self):
        spirit_id = stage.api.spirit("Others")
        events = [stage.api.event(spirit_id, "s", f"number {n}") for n in range(60)]
        other = stage.api.event(spirit_id, "other session", "elsewhere")
        context = stage.browser.context(stage.keys["reader"])
        self.addCleanup(context.close)
        page = context.new_page()
        broken = iter(range(2))  # the stream is opened again after it could not be opened twice
        page.route("**/*WatchChanges", lambda route: route.abort() if next(broken, None) is not None else route.continue_())
        page.goto(stage.browser.address + session_hash(spirit_id, "s", f"?event={events[30]['id']}&inspect=1"))
        row = lambda n: page.get_by_role("article").filter(has_text=re.compile(f"number {n}$"))
        details = page.get_by_role("complementary", name="Details")
        expect(row(30)).to_be_in_viewport()
        place = row(31).bounding_box()["y"]
        update = lambda n, **fields: stage.api.call("EventService/UpdateEvent", {"eventId": events[n]["id"]} | fields)

        update(30, metaSummary="Edited elsewhere")
        expect(row(30)).to_contain_text("Edited elsewhere")
        expect(details).to_contain_text("Edited elsewhere")
        expect_eventually(lambda: row(31).bounding_box()["y"] > place)
        place = row(31).bounding_box()["y"]
        stage.api.call("EventService/SoftDeleteEvent", {"eventId": events[0]["id"]})
        expect(page.get_by_text("59 events")).to_be_visible()
        self.assertAlmostEqual(row(31).bounding_box()["y"], place, delta=1)
        stage.api.call("EventService/SoftDeleteEvents", {"spiritId": spirit_id, "sessionId": "s", "afterSequence": "31"})
        expect(row(31)).to_have_count(0)
        expect(page.get_by_text("30 events")).to_be_visible()
        stage.api.call("EventService/RestoreEvent", {"eventId": events[31]["id"]})
        expect(row(31)).to_be_visible()
        stage.api.call("EventService/SoftDeleteEvent", {"eventId": events[30]["id"]})
        expect(row(30)).to_have_count(0)
        expect(details).to_contain_text("Deleted")

        # Changes of other sessions are of no concern.
        counted = []
        page.on("request", lambda request: "CountEvents" in request.url and counted.append(request.url))
        stage.api.call("EventService/SoftDeleteEvent", {"eventId": other["id"]})
        update(31, metaSummary="The last edit")
        expect(row(31)).to_contain_text("The last edit")
        self.assertEqual(counted, [])


class EditTest(ConsoleTest):
    def test_edits_deletions_and_rewinds_are_made_shown_and_undone(self):
        spirit_id = stage.api.spirit("Edits")
        events = [stage.api.event(spirit_id, "s", f"number {n}") for n in range(5)]
        page = self.open(session_hash(spirit_id, "s", f"?event={events[1]['id']}&inspect=1"))
        details = page.get_by_role("complementary", name="Details")
        undo = page.get_by_role("status").get_by_role("button", name="Undo")
        stored = lambda: stage.api.call("EventService/GetEvent", {"eventId": events[1]["id"], "includeDeleted": True})["event"]

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
