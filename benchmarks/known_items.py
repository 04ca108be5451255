"""Collections for known-item searches, made from real texts that are on the machine: each query has one right answer.

A query is a short text that an author wrote about a longer one, and the longer one, without it, is what is to be found.
So nobody judged anything, and nobody had a search engine in mind. The five differ in what finds the answer:

- `packages`: a Debian package's summary asks for its long description. Often said twice, in other words.
- `docstrings`: the first sentence of a Python function's documentation asks for the rest of it.
- `manual`: the NAME line of a manual page, without the name, asks for the page: long documents.
- `dictionary`: WordNet's definition of a word asks for GCIDE's of the same word, without the word: written a century
  apart, so that hardly a word is shared. Here meaning finds and words mislead.
- `names`: the name of a Python function, and nothing else, asks for its documentation. Here words find.

The texts come with Debian and with the packages in requirements.lock: `apt-get install wordnet-base dict-gcide
manpages manpages-dev man-db`, and long descriptions of packages, which containers mostly leave out: `apt-get -o
Acquire::Languages=en update`.
"""

import ast
import functools
import gzip
import re
import subprocess
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.texts import GCIDE, WORDNET

SEED = 20240501
LONGEST = 6_000  # characters of a document: about six passages of the bundled model
MANUAL = Path("/usr/share/man")
LISTS = Path("/var/lib/apt/lists")
LIBRARIES = ("numpy", "torch", "transformers", "sentence_transformers", "starlette", "pydantic", "httpx")


@dataclass(frozen=True)
class Collection:
    """Texts, questions, and what answers them."""

    name: str
    texts: list[str]
    queries: list[str]
    judgements: list[dict[int, int]]  # for each query: number of the text, from 0, to grade, above 0


def packages(lists: Path = LISTS, n_texts: int = 1500, n_queries: int = 300) -> Collection:
    """One package of each group whose long descriptions begin alike (-dev, -doc, …), the one with the shortest name."""
    found: dict[str, tuple[str, str, str]] = {}  # first paragraph: (name, summary, description)
    for name, summary, description in _descriptions(lists):
        paragraph = description.partition("\n\n")[0]
        if len(description) > 150 and summary.lower() not in description.lower():
            found[paragraph] = min(found.get(paragraph, (name, summary, description)),
                                   (name, summary, description), key=lambda each: (len(each[0]), each[0]))  # fmt: skip
    return _sample("packages", [(summary, text) for _, summary, text in found.values()], n_texts, n_queries)


def docstrings(n_texts: int = 1500, n_queries: int = 300) -> Collection:
    """Python's library and LIBRARIES; without the summary, a text must still have 150 characters."""
    pairs = {}
    for _, docstring in _docstrings():
        summary, _, rest = docstring.partition("\n\n")
        summary, rest = " ".join(summary.split()), rest.strip()
        if 20 <= len(summary) <= 200 and len(rest) >= 150 and not summary.startswith(("Alias", "See ")):
            pairs.setdefault(rest, summary)
    return _sample("docstrings", [(summary, rest) for rest, summary in pairs.items()], n_texts, n_queries)


def manual(n_texts: int = 250, n_queries: int = 200) -> Collection:
    """Pages of sections 1, 2, 3, 5, 7 and 8; of programs with more than fifty pages, fifty."""
    paths: dict[str, list[Path]] = {}
    for section in "123578":
        for path in sorted((MANUAL / f"man{section}").glob("*.gz")):
            if not path.is_symlink():
                paths.setdefault(re.split(r"[-_.:]", path.name)[0], []).append(path)
    rng = np.random.default_rng(SEED)
    chosen = [path for each in paths.values() for path in each[:50]]
    chosen = [chosen[i] for i in rng.permutation(len(chosen))]
    pairs: dict[str, str] = {}
    with ThreadPoolExecutor(2) as threads:
        for found in threads.map(_manual_page, chosen[: 2 * n_texts]):
            if found:
                pairs.setdefault(found[1], found[0])
    return _sample("manual", [(query, text) for text, query in pairs.items()], n_texts, n_queries)


def dictionary(n_texts: int = 2500, n_queries: int = 400) -> Collection:
    """Words with one sense in WordNet and one entry in GCIDE."""
    if missing := [each for each in (WORDNET, GCIDE) if not each.exists()]:
        raise SystemExit(f"{missing[0]} isn't there: see known_items.py")
    senses: dict[str, list[str]] = {}
    for part in ("noun", "verb", "adj", "adv"):
        for line in (WORDNET / f"data.{part}").read_text().splitlines():
            if not line.startswith("  "):
                head, _, gloss = line.partition(" | ")
                fields = head.split()
                definition = re.split(r';\s*"', gloss)[0].strip()
                for word in fields[4 : 4 + 2 * int(fields[3], 16) : 2]:
                    senses.setdefault(word.lower().replace("_", " "), []).append(definition)
    entries: dict[str, list[str]] = {}
    with gzip.open(GCIDE, "rt", encoding="utf-8", errors="replace") as file:
        for entry in re.split(r"\n(?=\S)", file.read()):
            head, backslash, rest = entry.partition("\\")
            if backslash and "WordNet" not in entry:
                entries.setdefault(head.strip().lower(), []).append(rest.partition("\\")[2])
    pairs = []
    for word, texts in sorted(entries.items()):
        if len(texts) == 1 and len(senses.get(word, ())) == 1:
            text = re.sub(
                r"\\[^\\]*\\|\[[^\]]*\]|[{}]", "", texts[0]
            )  # a pronunciation, a source, a reference
            text = re.sub(rf"\b{re.escape(word)}\w*", "", " ".join(text.split()), flags=re.IGNORECASE)
            query = re.sub(rf"\b{re.escape(word)}\w*", "", senses[word][0], flags=re.IGNORECASE)
            if (
                len(text) >= 60 and len(query) >= 20 and query.lower() not in text.lower()
            ):  # copied from WordNet
                pairs.append((query, text.lstrip(" ,;.")))
    return _sample("dictionary", pairs, n_texts, n_queries)


def names(n_texts: int = 1500, n_queries: int = 300) -> Collection:
    """A text is a dotted name and how its docstring begins; a query the name's last part, where only one has it."""
    texts: dict[str, str] = {}
    for name, docstring in _docstrings():
        texts.setdefault(name, f"{name}\n\n{docstring[:1000]}")
    last: dict[str, list[str]] = {}
    for name in texts:
        last.setdefault(name.rpartition(".")[2], []).append(name)
    pairs = [
        (part, texts[full[0]])
        for part, full in sorted(last.items())
        if len(full) == 1 and len(part) >= 6 and len(texts[full[0]]) >= 150
    ]
    return _sample("names", pairs, n_texts, n_queries)


def built(lists: Path = LISTS) -> Iterator[Collection]:
    """Make all five, one after another."""
    yield packages(lists)
    for make in (docstrings, manual, dictionary, names):
        yield make()


def _sample(name: str, pairs: list[tuple[str, str]], n_texts: int, n_queries: int) -> Collection:
    """Draw texts, and queries for some of them; the same at every run over the same texts."""
    if len(pairs) < n_queries:
        raise SystemExit(
            f"{name}: expected at least {n_queries} texts, found {len(pairs)}: see known_items.py"
        )
    order = np.random.default_rng(SEED).permutation(len(pairs))[:n_texts]
    texts = [pairs[i][1][:LONGEST] for i in order]
    queries = [pairs[i][0] for i in order[:n_queries]]
    return Collection(name, texts, queries, [{at: 1} for at in range(len(queries))])


def _descriptions(lists: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the name, summary and long description of every package that apt has a translation file for."""
    seen = set()
    for path in sorted(lists.glob("*_Translation-en*")):
        read = ["/usr/lib/apt/apt-helper", "cat-file", str(path)]
        text = subprocess.run(read, stdout=subprocess.PIPE, text=True, check=True).stdout
        for found in re.finditer(
            r"^Package: (\S+)\n.*\nDescription-en: (.*)\n((?: .*\n)*)", text, re.MULTILINE
        ):
            name, summary, body = found.groups()
            if name not in seen:
                seen.add(name)
                paragraphs = [" ".join(each.split()) for each in re.split(r"^ \.$", body, flags=re.MULTILINE)]
                yield name, summary, "\n\n".join(filter(None, paragraphs))


@functools.cache
def _docstrings() -> list[tuple[str, str]]:
    """Return dotted names and docstrings of public functions and classes, sorted by path; nothing is imported."""
    return list(_found_docstrings())


def _found_docstrings() -> Iterator[tuple[str, str]]:
    paths = sysconfig.get_paths()
    library, installed = Path(paths["stdlib"]), Path(paths["purelib"])
    folders = [(library, [p for p in sorted(library.rglob("*.py")) if "site-packages" not in p.parts])]
    folders += [(installed, sorted((installed / each).rglob("*.py"))) for each in LIBRARIES]
    for folder, files in folders:
        for path in files:
            parts = path.relative_to(folder).with_suffix("").parts
            if {"test", "tests", "testing", "idlelib", "lib2to3"} & set(parts) or path.stem.startswith(
                "test"
            ):
                continue
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError):
                continue
            for node in tree.body:
                yield from _named(node, ".".join(part for part in parts if part != "__init__"))


def _named(node: ast.AST, module: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith(
        "_"
    ):
        if docstring := ast.get_docstring(node):
            yield f"{module}.{node.name}", docstring
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                yield from _named(inner, f"{module}.{node.name}")


def _manual_page(path: Path) -> tuple[str, str] | None:
    """Return what the NAME section says behind the dash, and the page without that section; None if it has none."""
    with gzip.open(path, "rb") as file:
        if file.read(200).startswith(b".so "):
            return None  # another name of a page
    made = subprocess.run(
        ["man", "-l", "-E", "utf-8", str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={"MANWIDTH": "100", "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}, text=True, errors="replace",
    )  # fmt: skip
    lines = made.stdout.split("\n")[1:-2]  # without the running title
    sections: dict[str, list[str]] = {}
    heading = ""
    for line in lines:
        if line and not line[0].isspace():
            heading = line
        sections.setdefault(heading, []).append(line)
    name = " ".join(" ".join(sections.pop("NAME", [])[1:]).split())
    _, dash, query = name.partition(" - ")
    text = "\n".join(line.strip() for each in sections.values() for line in each)
    text = re.sub(r"\n{2,}", "\n\n", text).strip()
    return (query, text) if dash and len(query) >= 15 and len(text) >= 300 else None
