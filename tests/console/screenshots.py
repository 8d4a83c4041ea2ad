"""screenshots.py [DIRECTORY]: remakes the screenshots in docs/images, or makes those of every view, theme and width."""

import pathlib
import sys

from playwright.sync_api import Page, expect

from harness import ROOT, Api, Browser, Server, session_hash

WIDE = {"width": 1440, "height": 900}
NARROW = {"width": 360, "height": 740}
# Those of the documentation: name, view, theme, size.
DOCUMENTED = [
    ("spirits", "spirits", "light", WIDE),
    ("sessions", "sessions", "light", WIDE),
    ("conversation", "conversation", "light", WIDE),
    ("inspector", "inspector", "dark", WIDE),
    ("narrow", "filters", "dark", NARROW),
]


def import_examples(server: Server, api: Api) -> dict[str, str]:
    """Imports the examples and returns the ids of their spirits by name."""
    server.command("import", str(ROOT / "examples/release.jsonl"), "--spirit", "Ada")
    server.command("import", str(ROOT / "examples/garden.jsonl"), "--spirit", "Fern")
    server.command("session", "set", "release-2.4", "--spirit", "Ada", "--title", "Release 2.4", "--owner", "mira")
    server.command("session", "set", "on-call", "--spirit", "Ada", "--title", "Is the shop slow?", "--owner", "jon")
    server.command("session", "set", "tomatoes", "--spirit", "Fern", "--title", "Pale leaves", "--owner", "mira")
    spirits = {each["name"]: each["id"] for each in api.call("SpiritService/ListSpirits", {})["spirits"]}
    descriptions = {"Ada": "Release engineer of the shop team", "Fern": "Looks after the garden"}
    for name, description in descriptions.items():
        api.call("SpiritService/UpdateSpirit", {"spiritId": spirits[name], "description": description})
    return spirits


def find(api: Api, spirit_id: str, session_id: str, text: str) -> str:
    request = {"spiritId": spirit_id, "sessionId": session_id, "pageSize": 200}
    events = api.call("EventService/ListEvents", request)["events"]
    return next(each["id"] for each in events if text in each["content"])


def views(api: Api, spirits: dict[str, str]) -> dict[str, str]:
    """The address of each view by the name of its screenshot."""
    ada = spirits["Ada"]
    answer, failed = find(api, ada, "release-2.4", "rounded **twice**"), find(api, ada, "release-2.4", "did not answer")
    update = {"eventId": answer, "metaSummary": "Explains why the basket is rounded twice and proposes the fix."}
    api.call("EventService/UpdateEvent", update)
    return {
        "spirits": "#/",
        "sessions": f"#/spirits/{ada}",
        "conversation": session_hash(ada, "release-2.4", f"?event={failed}"),
        "inspector": session_hash(ada, "release-2.4", f"?event={answer}&inspect=1"),
        "filters": session_hash(ada, "release-2.4", "?types=message.in,message.out,error"),
    }


def settle(page: Page, name: str) -> None:
    expect(page.locator("main a[data-item], main article").first).to_be_visible()
    if name in ("conversation", "inspector", "filters"):
        expect(page.get_by_role("button", name="Follow new events: Live")).to_be_visible()
    if name == "inspector":
        expect(page.get_by_text("change 1")).to_be_visible()
    if name == "filters":
        page.get_by_role("button", name="Filters").click()
    page.wait_for_timeout(400)  # until the time strip has been read


def all_shots(names) -> list[tuple]:
    sizes = (("wide", WIDE), ("narrow", NARROW))
    return [(f"{view}-{theme}-{size}", view, theme, viewport) for view in names for theme in ("light", "dark") for size, viewport in sizes]


def main(directory: pathlib.Path | None) -> None:
    server = Server()
    api = Api(server)
    browser = Browser(server)
    try:
        addresses = views(api, import_examples(server, api))
        for name, view, theme, viewport in all_shots(addresses) if directory else DOCUMENTED:
            page = browser.open(None, addresses[view], viewport=viewport, color_scheme=theme)
            settle(page, view)
            page.screenshot(path=(directory or ROOT / "docs/images") / f"console-{name}.png")
            page.context.close()
    finally:
        browser.close()
        server.stop()


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) if sys.argv[1:] else None)
