"""What the tests of HTML pages share: a parser that checks the nesting, and the data that a page's script reads."""

import json
import re
from html.parser import HTMLParser
from typing import Any


class Page(HTMLParser):
    """Collects what a page refers to and says, and checks that tags nest."""

    VOID = ("meta", "img", "link", "br", "input")
    # An SVG's elements may close themselves.

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.alts: list[str | None] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.references += [values[name] or "" for name in ("src", "href") if name in values]
        if tag == "img":
            self.alts.append(values.get("alt"))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def data_of(text: str) -> Any:
    """The values that the script of a page works with."""
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])
