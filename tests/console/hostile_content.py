"""Test of content that tries to run scripts or to load something."""

from playwright.sync_api import expect

from case import ConsoleTest, stage
from payloads import PAYLOADS


class HostileContentTest(ConsoleTest):
    def test_no_field_of_any_resource_can_run_a_script_or_load_anything(self):
        spirit_id = stage.api.spirit(PAYLOADS[0], description=PAYLOADS[5])
        session_id = "<img src=x onerror=window.ran=1>"
        types = ["message.in", "message.out", "thought", "tool.call", "tool.result", "system", "error", "context.compaction"]
        stage.api.events([
            {
                "spiritId": spirit_id, "sessionId": session_id, "content": payload, "metaSummary": payload, "role": payload[:50],
                "eventType": types[n % 9] if n % 9 < 8 else payload[:100], "author": payload[:255], "sourceUri": payload, "dedupeKey": f"{n}{payload}"[:255],
                "meta": {payload: payload, "tool_name": payload, "tool_call_id": payload, "model": payload, "agent_path": [payload],
                         "parts": [{"type": "image", "source": {"media_type": payload, "url": payload}}, {"type": payload, "path": payload}]},
            }
            for n, payload in enumerate(PAYLOADS)
        ])
        stage.api.call("SessionService/UpdateSession", {"spiritId": spirit_id, "sessionId": session_id, "title": PAYLOADS[5], "owner": PAYLOADS[10]})
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
            page.goto(stage.browser.address + hash)
            page.wait_for_timeout(50)
        self.assertIsNone(page.evaluate("() => window.ran ?? null"))
