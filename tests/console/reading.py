"""Tests of signing in, of lists, and of conversations."""

from playwright.sync_api import expect

from case import ConsoleTest, expect_eventually, stage, tool_session
from harness import ROOT, create_key, session_hash


class SignInTest(ConsoleTest):
    def test_a_key_is_asked_for_checked_and_kept_in_the_session_storage_only(self):
        page = stage.browser.open(None)
        self.addCleanup(page.context.close)
        field = page.get_by_label("API key")
        field.fill("ek_0123456789ab_wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("does not accept this API key")
        field.fill(stage.keys["reader"])
        field.press("Enter")
        expect(page.get_by_role("heading", name="Spirits")).to_be_visible()
        stores = page.evaluate("() => [JSON.stringify({...localStorage}), document.cookie, Object.values(sessionStorage)]")
        self.assertEqual(stores, ["{}", "", [stage.keys["reader"]]])
        page.reload()
        expect(page.get_by_text("reader", exact=False).first).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        self.assertEqual(page.evaluate("() => sessionStorage.length"), 0)

    def test_readers_see_no_edits_and_a_revoked_key_ends_the_page_with_a_sentence(self):
        spirit_id = stage.api.spirit("Reader")
        event = stage.api.event(spirit_id, "s", "Hello")
        stage.keys["revoked"] = create_key(stage.server, "revoked", "reader")
        page = self.open(session_hash(spirit_id, "s", f"?event={event['id']}&inspect=1"), "revoked")
        details = page.get_by_role("complementary", name="Details")
        expect(details.get_by_text("Never changed.")).to_be_visible()
        expect(details.get_by_role("button", name="Copy id")).to_be_visible()
        for name in ("Edit", "Delete", "Rewind to here"):
            expect(details.get_by_role("button", name=name)).to_have_count(0)
        expect(page.get_by_role("button", name="Edit the title")).to_be_hidden()
        stage.server.command("key", "revoke", stage.keys["revoked"][:15])
        # The stream that follows ends by itself.
        expect(page.get_by_role("alert")).to_contain_text("was revoked or has expired")
        self.assertIsNone(page.evaluate("() => sessionStorage.getItem('elephantasm.key')"))


class ReadingTest(ConsoleTest):
    def test_from_the_spirits_to_a_conversation_with_folded_calls(self):
        spirit_id = stage.api.spirit("Walk", description="Walks through everything")
        tool_session(spirit_id, "chat")
        stage.api.call("SessionService/UpdateSession", {"spiritId": spirit_id, "sessionId": "chat", "title": "Soil", "owner": "mira"})
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

    def test_the_order_as_stored_pairs_a_call_with_its_result_when_the_clock_was_set_back(self):
        spirit_id = stage.api.spirit("Clock")
        paired = {"meta": {"tool_call_id": "1", "tool_name": "search"}}
        stage.api.event(spirit_id, "s", "Look it up", occurredAt="2026-05-02T08:00:00Z")
        stage.api.event(spirit_id, "s", '{"query": "soil"}', "tool.call", occurredAt="2026-05-02T08:30:00Z", **paired)
        stage.api.event(spirit_id, "s", "3 hits", "tool.result", occurredAt="2026-05-02T08:20:30Z", **paired)
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
        stage.api.event(spirit_id, "s", "An hour before", occurredAt="2026-05-02T07:00:00Z")
        expect(articles.last).to_contain_text("An hour before")
        page.get_by_label("Order").select_option("By time")
        expect(articles.first).to_contain_text("An hour before")
        self.assertNotIn("order", page.url)

    def test_imported_transcripts_are_conversations(self):
        spirit_id = stage.api.spirit("Transcripts")
        files = [str(ROOT / f"tests/formats/files/{name}.jsonl") for name in ("claude-code", "codex")]
        stage.server.command("import", *files, "--spirit", spirit_id, environment={"EVENTS_API_KEY": stage.keys["admin"]})
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
        spirit_id = stage.api.spirit("Filters")
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
