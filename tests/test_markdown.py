"""Markdown cut before its headings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.markdown import sections


def parts(text, title=""):
    return [(each.anchor, each.title, each.text) for each in sections(text, title)]


def test_each_heading_begins_a_part_named_by_the_path_to_it():
    text = "# Bread\n\nFlour.\n\n## Baking\n\nHot.\n\n### Crust\nDark.\n\n## Eating\n\nWarm.\n"
    assert parts(text) == [
        ("", "Bread", "# Bread\n\nFlour."),
        ("baking", "Bread › Baking", "## Baking\n\nHot."),
        ("baking/crust", "Bread › Baking › Crust", "### Crust\nDark."),
        ("eating", "Bread › Eating", "## Eating\n\nWarm."),
    ]


@pytest.mark.parametrize(
    "text", ["no heading\n", "# One\n\nheading\n", "\n\n# One\n\n", "## Two\n\n## Empty\n", "x"]
)
def test_a_text_that_has_one_part_stays_as_it_is(text):
    [only] = sections(text)
    assert (only.anchor, only.text) == ("", text)


def test_what_stands_before_the_headings_is_the_beginning():
    assert parts("Flour.\n\n# Bread\nx\n# Beer\ny") == [
        ("", "", "Flour."),
        ("bread", "Bread", "# Bread\nx"),
        ("beer", "Beer", "# Beer\ny"),
    ]


def test_a_heading_with_nothing_below_goes_with_the_next():
    assert parts("# Book\n\n## Part\n\n### Chapter\nwords\n## Last\nend\n## Empty\n") == [
        ("part/chapter", "Book › Part › Chapter", "# Book\n\n## Part\n\n### Chapter\nwords"),
        ("last", "Book › Last", "## Last\nend"),
        ("empty", "Book › Empty", "## Empty"),
    ]


def test_the_same_heading_again_gets_a_number_that_no_other_has():
    text = "# A\nx\n# B 2\ny\n# B\n1\n# B\n2\n# B\n3\n"
    assert [anchor for anchor, _, _ in parts(text)] == ["a", "b-2", "b", "b-3", "b-4"]


def test_what_looks_like_a_heading_but_is_none_does_not_cut():
    text = "# A\n```sh\n# comment\n```\n> # quoted\n\n    # code\n\n#hashtag\n\n- # in a list\n"
    text += "<!--\n# hidden\n-->\n# B\nb\n"
    assert [title for _, title, _ in parts(text)] == ["A", "B"]


def test_underlined_headings_and_all_kinds_of_line_ends_count():
    assert parts("One\n===\r\na\r\rTwo\n---\nb\x0c\nc") == [
        ("", "One", "One\n===\r\na"),
        ("two", "One › Two", "Two\n---\nb\x0c\nc"),
    ]


def test_front_matter_holds_no_heading_and_may_hold_the_title():
    front = "---\ntags: [a]\ntitle: 'My bread'\n---\n"
    assert parts(f"{front}Flour.\n## Baking\nHot.\n") == [
        ("", "My bread", "---\ntags: [a]\ntitle: 'My bread'\n---\n\nFlour."),
        ("baking", "My bread › Baking", "## Baking\nHot."),
    ]
    assert parts(f"{front}Flour.") == [("", "My bread", f"{front}Flour.")]
    assert [title for _, title, _ in parts(f"{front}# My bread\nFlour.\n## Baking\nHot.\n")] == [
        "My bread", "My bread › Baking",
    ]  # fmt: skip


def test_a_title_known_from_elsewhere_stands_before_the_headings():
    assert [title for _, title, _ in parts("# One\na\n# Two\nb", "Book")] == ["Book › One", "Book › Two"]


def test_markup_is_no_part_of_a_title_nor_of_an_anchor():
    text = "# `run` the [**tests**](http://x/y)!\na\n# Größe & Maß\nb\n# !!!\nc"
    assert [(anchor, title) for anchor, title, _ in parts(text)] == [
        ("run-the-tests", "run the tests!"),
        ("größe--maß", "Größe & Maß"),
        ("section", "!!!"),
    ]


@given(st.text(alphabet=st.sampled_from("#=- \n\r`>ab\t\x0c"), max_size=120))
def test_nothing_is_left_out_and_every_part_has_a_name_of_its_own(text):
    found = sections(text)
    assert len({each.anchor for each in found}) == len(found)
    if len(found) > 1:
        rest = text
        for each in found:
            before, _, rest = rest.partition(each.text)
            assert not before.strip()
        assert not rest.strip()
