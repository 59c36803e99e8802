"""The pages: readable without anything from elsewhere, and nothing that they show can become anything else."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from aichats_worker.app import App
from aichats_worker.documents.front import LINKS, FrontPage
from aichats_worker.documents.html import HEADERS, STYLE, joined, page, prose, table, tag
from aichats_worker.documents.page import render
from aichats_worker.settings import load_settings

HOSTILE = """<script>alert(1)</script><img src=x onerror="alert(2)">&quot;'`</title></style>"""
VOID = {"meta"}


class Seen(HTMLParser):
    """What a browser makes of a page."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html.decode())
        self.close()
        assert self._open == [], "what is opened is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, name: str) -> list[str]:
        return [value or "" for key, value in self.attributes if key == name]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return App(load_settings()).contract.document()


def poisoned(node: Any) -> Any:
    """The same document, with something hostile behind every text that is no name and no reference."""
    if isinstance(node, dict):
        return {key: value if key in ("$ref", "action", "location") else poisoned(value) for key, value in node.items()}
    if isinstance(node, list):
        return [poisoned(value) for value in node]
    return node + HOSTILE if isinstance(node, str) else node


def test_the_contracts_page_shows_every_subject_schema_and_code(document: dict[str, Any]) -> None:
    seen = Seen(render(document))
    for name in (*document["operations"], *document["components"]["schemas"]):
        assert name in seen.values("id")
    for channel in document["channels"].values():
        assert channel["address"] is None or channel["address"] in seen.text
    for each in document["components"]["schemas"]["ErrorCode"]["x-codes"]:
        assert each["code"] in seen.text
    assert '"prompt": "Say hi"' in seen.text
    assert '"type": "done"' in seen.text


def test_every_link_of_a_page_leads_somewhere(document: dict[str, Any]) -> None:
    seen = Seen(render(document))
    ids = seen.values("id")
    assert len(ids) == len(set(ids))
    for target in seen.values("href"):
        assert target in ("/", "asyncapi.json", "asyncapi.yaml") or target.removeprefix("#") in ids
    assert sorted(Seen(FrontPage(ready=True, checks={}, facts={}).html()).values("href")) == sorted(LINKS)


def test_a_page_needs_nothing_from_elsewhere_and_runs_nothing(document: dict[str, Any]) -> None:
    for html in (render(document), FrontPage(ready=True, checks={"broker": "ok"}, facts={"a": "b"}).html()):
        seen = Seen(html)
        assert set(seen.tags).isdisjoint({"script", "img", "link", "iframe", "form", "object", "base"})
        assert {name for name, _ in seen.attributes} <= {
            "href", "id", "class", "lang", "charset", "name", "content"
        }  # fmt: skip
        assert not re.search(r"url\(|@import|https?:", html.decode())


def test_whatever_a_document_holds_stays_text(document: dict[str, Any]) -> None:
    clean, seen = Seen(render(document)), Seen(render(poisoned(document)))
    assert HOSTILE.replace("`", "") in seen.text.replace("`", "")
    assert set(seen.tags) == set(clean.tags)
    assert {name for name, _ in seen.attributes} == {name for name, _ in clean.attributes}


def test_whatever_a_worker_says_of_itself_stays_text() -> None:
    front = FrontPage(ready=False, checks={HOSTILE: HOSTILE, "broker": "ok"}, facts={HOSTILE: HOSTILE})
    seen = Seen(front.html())
    assert "script" not in seen.tags
    assert "img" not in seen.tags
    assert seen.text.count(HOSTILE) == 5


def test_texts_and_attributes_are_escaped_and_elements_are_not() -> None:
    assert tag("p", "<b>", tag("i", "&"), class_='"><x') == '<p class="&quot;&gt;&lt;x">&lt;b&gt;<i>&amp;</i></p>'
    assert joined("<", tag("i")) == "&lt;<i></i>"
    assert prose("say `<hi>` & go") == "say <code>&lt;hi&gt;</code> &amp; go"
    assert table(("A",), []) == ""
    assert b"<title>&lt;/title&gt;</title>" in page("</title>")


def test_a_browser_is_told_to_load_run_and_send_nothing() -> None:
    policy = HEADERS["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    for rule in ("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"):
        assert rule in policy
    assert f"<style>{STYLE}</style>".encode() in page("title"), "the hash is this text's, to the byte"


def test_the_front_page_says_why_a_worker_is_not_ready() -> None:
    front = FrontPage(ready=False, checks={"broker": "no broker", "start": "ok"}, facts={"prefix": "ai.v1"})
    assert "not ready: no broker" in Seen(front.html()).text
    lines = front.text().decode().splitlines()
    assert lines[0].endswith(": not ready: no broker")
    assert "broker             no broker" in lines
    assert "prefix             ai.v1" in lines
    assert all(any(line.startswith(link) for line in lines) for link in LINKS)


def test_the_front_page_says_what_is_wrong_with_a_worker_that_is_ready() -> None:
    front = FrontPage(ready=True, checks={"provider": "not asked for a while"}, facts={})
    assert front.text().decode().splitlines()[0].endswith(": ready, but not asked for a while")
    assert Seen(front.html()).values("class")[:2] == ["good", "bad"]
