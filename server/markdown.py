"""Markdown by its headings: the parts of a text that become documents of their own.

The parts are the text itself, cut before headings: nothing is left out and nothing comes twice, but for blank lines
around the cuts. A heading with nothing below it but the next heading goes with that one's part.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from markdown_it import MarkdownIt

BETWEEN_TITLES = " › "

# As CommonMark counts lines: str.splitlines would also cut at form feeds and at Unicode's separators.
LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")
FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(.*?\r?\n)?(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL)
FRONT_TITLE = re.compile(r"""^title:[ \t]*(["']?)(\S[^\r\n]*?)\1[ \t]*\r?$""", re.MULTILINE)
LINK = re.compile(r"!?\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])")


@dataclass(frozen=True)
class Section:
    """A part of a text: where it stands among the headings, and what it says.

    `anchor` is the path of its headings, made fit for an id, as `install/on-linux`; "" is the beginning of the text, or
    all of it. `title` is the same path as people read it, with the text's own title first; "" where there is none.
    """

    anchor: str
    title: str
    text: str


@dataclass(frozen=True)
class _Heading:
    line: int  # where it begins, from 0
    end: int  # behind its last line
    level: int  # 1 to 6
    title: str


def sections(text: str, title: str = "") -> list[Section]:
    """Cut a text before its headings, as CommonMark reads them; fences, quotations and front matter hold none.

    Args:
        title: the text's own where it is known from elsewhere; front matter may name one too.
    """
    front = FRONT_MATTER.match(text)
    lines = LINE.findall(text, front.end() if front else 0)
    headings = _headings("".join(lines))
    named = FRONT_TITLE.search(front[1] or "") if front else None
    parts = list(_parts(lines, headings, named[2] if named else title))
    if len(parts) == 1:
        return [Section("", parts[0].title, text)]
    if front:  # it goes with the beginning, whatever that is
        first = parts[0]
        parts[0] = Section(first.anchor, first.title, text[: front.end()].rstrip() + "\n\n" + first.text)
    return parts


def _headings(text: str) -> list[_Heading]:
    # Inline markup, the most of the work, isn't looked at.
    tokens = MarkdownIt("commonmark").disable(["inline", "text_join"]).parse(text)
    return [
        _Heading(token.map[0], token.map[1], int(token.tag[1:]), _plain(following.content))
        for token, following in pairwise(tokens)
        if token.type == "heading_open" and token.level == 0 and token.map
    ]


def _parts(lines: list[str], headings: list[_Heading], title: str) -> Iterator[Section]:
    """Yield the parts in order; `title` is the text's own where it has one."""
    top = _title_of_all(lines, headings)
    above = [title] if title and not (top and top.title == title) else []
    open_headings: list[_Heading] = []
    taken: Counter[str] = Counter()
    start = 0  # line where the part begins
    ends = [heading.line for heading in headings] + [len(lines)]
    if not headings or "".join(lines[: headings[0].line]).strip():
        yield _section(lines[: ends[0]], [], above, taken)
        start = ends[0]
    for heading, end in zip(headings, ends[1:], strict=True):
        open_headings = [each for each in open_headings if each.level < heading.level] + [heading]
        has_body = "".join(lines[heading.end : end]).strip()
        if not has_body and end < len(lines):
            continue  # it goes with the next one
        below_top = [each for each in open_headings if each is not top]
        titles = [*above, *([top.title] if top else []), *(each.title for each in below_top)]
        yield _section(lines[start:end], below_top, titles, taken)
        start = end


def _title_of_all(lines: list[str], headings: list[_Heading]) -> _Heading | None:
    """Return the heading that is the whole text's title: it begins the text, and no other is of its level or above."""
    if not headings or "".join(lines[: headings[0].line]).strip():
        return None
    first = headings[0]
    return first if all(each.level > first.level for each in headings[1:]) else None


def _section(lines: list[str], path: list[_Heading], titles: list[str], taken: Counter[str]) -> Section:
    anchor = "/".join(_slug(each.title) for each in path)
    unnumbered = anchor
    while taken[anchor]:
        taken[unnumbered] += 1
        anchor = f"{unnumbered}-{taken[unnumbered]}"
    taken[anchor] += 1
    return Section(anchor, BETWEEN_TITLES.join(filter(None, titles)), "".join(lines).strip("\r\n").rstrip())


def _plain(heading: str) -> str:
    """Return a heading's words without the commonest markup."""
    return " ".join(re.sub(r"[*`]+", "", LINK.sub(r"\1", heading)).split())


def _slug(title: str) -> str:
    """Return a heading as it stands in links to it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") or "section"
