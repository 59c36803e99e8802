"""What the documents point to is there."""

import re
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.processes import ROOT

FOLDERS = (".", "docs", "docs/decisions", "helm")
PAGES = sorted({page for folder in FOLDERS for page in (ROOT / folder).glob("*.md")})
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(
    r"`((?:worker|schemas|client|tests|docs|helm|benchmarks|requirements|examples|\.ci|\.github)/[\w./-]*\w)`"
)


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made on the web."""
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_no_page_stands_twice_in_the_sites_navigation() -> None:
    nav = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
    pages = re.findall(r"[\w/-]+\.md$", nav, flags=re.MULTILINE)
    assert pages
    assert sorted(pages) == sorted(set(pages))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text("utf-8")):
        if urlsplit(target).scheme:
            assert urlsplit(target).scheme == "https", f"{named(page)}: {target}"
            assert urlsplit(target).hostname, f"{named(page)}: {target}"
            continue
        place, _, anchor = target.partition("#")
        linked = (page.parent / place).resolve() if place else page
        assert linked.exists(), f"{named(page)}: {target} is not there"
        if anchor:
            assert anchor in anchors(linked), f"{named(page)}: {target} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_file_that_is_named_is_there(page: Path) -> None:
    gone = [name for name in CODE.findall(page.read_text("utf-8")) if not (ROOT / name).exists()]
    assert not gone, f"{named(page)} names {gone}"


def test_the_package_says_where_more_is_to_be_found() -> None:
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
    assert urls
    assert all(urlsplit(url).scheme == "https" and urlsplit(url).hostname for url in urls.values())
