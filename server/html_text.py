"""A web page's title and text."""

import re
from html.parser import HTMLParser

# HTML elements whose content is left out, that stand as paragraphs, on lines of their own, and in rows.
DROPPED = frozenset(("script", "style", "template", "svg"))
PARAGRAPHS = frozenset((
    "p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "pre", "blockquote", "body",
    "section", "article", "header", "footer", "nav", "aside", "main", "figure", "form", "hr", "address",
    "details",
))  # fmt: skip
LINES = frozenset((
    "br", "div", "li", "tr", "dt", "dd", "figcaption", "caption", "legend", "option", "summary", "label",
))  # fmt: skip
CELLS = frozenset(("td", "th"))


def html_to_text(page: str) -> tuple[str, str]:
    """Return a page's title ("" if it has none) and its text, a line for each block.

    Scripts, styles and all of the head but the title are left out; entities are resolved; white space is kept
    only in <pre>.
    """
    reader = _HtmlReader()
    reader.feed(page)
    reader.close()
    return reader.title_and_text()


class _HtmlReader(HTMLParser):
    """Collects a page's text; see html_to_text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._title: list[str] = []
        self._text: list[str] = []
        self._line_breaks = 0  # owed before the next text
        self._in_title = False
        self._dropped: list[str] = []  # open elements whose content is left out
        self._pre_depth = 0

    def parse_marked_section(self, i: int, report: int = 1) -> int:
        """Pass over <![ as browsers do; the parser would look for SGML in it, and fail where there is none."""
        return self.parse_bogus_comment(i)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._dropped or tag in DROPPED:
            if tag in DROPPED:
                self._dropped.append(tag)
            return
        if tag == "title":
            self._in_title = not self._title
        else:
            self._break(tag)
        if tag == "pre":
            self._pre_depth += 1

    def handle_endtag(self, tag: str) -> None:
        if self._dropped:
            if tag in self._dropped:
                del self._dropped[self._dropped.index(tag) :]
            return
        if tag == "title":
            self._in_title = False
        elif tag not in ("br", *CELLS):
            self._break(tag)
        if tag == "pre":
            self._pre_depth = max(0, self._pre_depth - 1)

    def handle_data(self, data: str) -> None:
        if self._dropped:
            return
        if self._in_title:
            self._title.append(data)
            return
        if not self._pre_depth:
            data = re.sub(r"\s+", " ", data)
            if self._line_breaks or not self._text or self._text[-1].endswith((" ", "\t", "\n")):
                data = data.lstrip()
        if data:
            self._text.append("\n" * self._line_breaks if self._text else "")
            self._text.append(data)
            self._line_breaks = 0

    def title_and_text(self) -> tuple[str, str]:
        """Return what was read."""
        text = re.sub(r"[^\S\n]+\n", "\n", "".join(self._text)).strip()
        return " ".join("".join(self._title).split()), re.sub(r"\n{3,}", "\n\n", text)

    def _break(self, tag: str) -> None:
        self._in_title = False  # whoever forgot </title> meant it to end here
        if tag in PARAGRAPHS:
            self._line_breaks = 2
        elif tag in LINES:
            self._line_breaks = max(self._line_breaks, 1)
        elif tag in CELLS and self._text and not self._line_breaks:
            self._text.append("\t")
