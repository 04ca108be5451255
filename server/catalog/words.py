"""The words of a text, and the terms of a question, as the full-text index has them."""

import itertools
import re
import sqlite3
import unicodedata

TOKENIZER = "porter unicode61 remove_diacritics 2 categories ''L* N* Co Mn Mc''"
"""What the index makes words of: letters, digits and marks (without marks, Hindi would fall apart at its vowels).
Capitals and accents don't count, and English words of one stem are one word. Quoted for SQL."""

MAX_TERMS = 64
"""Different terms of a question that are looked for, the first ones; a question of more is a document."""

MAX_CHARACTERS = 20_000
"""Of a question, that are looked at: 64 terms of ordinary text stand in the first thousand."""

# Scripts that put no spaces between words: Thai, Bopomofo, Hiragana, Katakana and Han, with the marks that may follow
# a character. The index was made with these very ranges and no others: to change them takes a new format. For the
# same reason nothing here asks `unicodedata`, which knows more characters with each Python.
_UNSPACED = re.compile(
    "[\u0e01-\u0e30\u0e32\u0e33\u0e3f-\u0e46\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"
    "\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d"
    "\U00020000-\U0003134f]"
    "[\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u3099\u309a\uff9e\uff9f]*"
)
_MARKS = frozenset(("Mn", "Mc", "Co"))  # beside letters and numbers: as TOKENIZER has it
_QUOTED = re.compile('"([^"]*)"')
_QUOTES = str.maketrans(dict.fromkeys("“”„«»", '"'))


def spaced(text: str) -> str:
    """Return the text with spaces around each character of a script that has none between its words."""
    return text if text.isascii() else _UNSPACED.sub(r" \g<0> ", text)


def register(connection: sqlite3.Connection) -> None:
    """Teach a connection `spaced`, which the full-text index needs wherever documents are written."""
    connection.create_function("spaced", 1, spaced, deterministic=True)


def terms(question: str) -> list[str]:
    """Return what to look for, each a string in FTS5's syntax that means itself and nothing else.

    A term is a word, two neighbouring characters of a script without spaces, or what stands between two quotation
    marks. No character has another meaning: one that is in no word separates words. No term stands there twice.
    """
    found: dict[str, str] = {}
    text = question[:MAX_CHARACTERS].translate(_QUOTES)
    for at, part in enumerate(_QUOTED.split(text)):  # what is quoted stands at the odd places
        for term in (" ".join(_words(spaced(part))),) if at % 2 else _unquoted(part):
            if term and len(found) < MAX_TERMS:
                found.setdefault(term.lower(), f'"{term}"')
    return list(found.values())


def _unquoted(text: str) -> list[str]:
    found: list[str] = []
    for word in _words(text):
        run: list[str] = []  # characters that stand side by side without spaces
        for each in (*spaced(word).split(), ""):
            if _UNSPACED.match(each):
                run.append(each)
            else:
                found += [f"{one} {two}" for one, two in itertools.pairwise(run)] or run
                found.append(each)
                run = []
    return found


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() or unicodedata.category(c) in _MARKS else " " for c in text).split()
