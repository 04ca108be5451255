"""The demo's documents: how the docstrings of Python's standard library begin."""

import ast
import importlib
import inspect
import itertools
import sysconfig
import warnings
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path

from server.incoming import Document

MIN_CHARACTERS = 40  # a shorter docstring says little more than its name
OPENING_CHARACTERS = 300  # of a longer docstring its first paragraphs, to keep the demo short
MAX_NAME_PARTS = 3  # zipfile.ZipFile.extractall is in, asyncio.base_events.BaseEventLoop.time is not

# What isn't the library's documentation (tests, programs, data), and modules that newer Pythons have dropped.
LEFT_OUT = frozenset((
    "__phello__", "__pycache__", "aifc", "antigravity", "asynchat", "asyncore", "audioop", "bdb", "cgi",
    "cgitb", "chunk", "crypt", "curses", "dist-packages", "distutils", "encodings", "ensurepip", "idlelib",
    "imghdr", "imp", "lib-dynload", "lib2to3", "mailcap", "msilib", "nis", "nntplib", "nturl2path",
    "ntpath", "ossaudiodev", "pdb", "pickletools", "pipes", "pydoc", "pydoc_data", "site-packages", "smtpd",
    "sndhdr", "spwd", "sunau", "symtable", "telnetlib", "test", "tests", "this", "tkinter", "turtle",
    "turtledemo", "uu", "venv", "xdrlib",
))  # fmt: skip
# Modules written in C have no source to read docstrings from; these, where a Python has them, import safely.
COMPILED = (
    "_asyncio", "_bisect", "_bz2", "_codecs", "_collections", "_contextvars", "_csv", "_datetime",
    "_decimal", "_functools", "_hashlib", "_heapq", "_io", "_json", "_locale", "_lzma", "_operator",
    "_pickle", "_queue", "_random", "_signal", "_socket", "_sqlite3", "_ssl", "_string", "_struct",
    "_thread", "_tracemalloc", "_weakref", "_zoneinfo", "array", "atexit", "binascii", "builtins", "cmath",
    "errno", "faulthandler", "fcntl", "gc", "grp", "itertools", "marshal", "math", "mmap", "posix", "pwd",
    "resource", "select", "sys", "syslog", "termios", "time", "unicodedata", "zlib",
)  # fmt: skip
PUBLIC_NAMES = {"posix": "os", "posixpath": "os.path", "_thread": "threading", "builtins": ""}


def collect_docstrings(modules: Container[str] | None = None) -> list[Document]:
    """Read how the standard library's docstrings begin, sorted by name; the same list at every call.

    Those of modules in Python come from their source, which isn't run; those of modules in C by import. Of
    names with the same docstring the shortest stays.

    Args:
        modules: only these top-level modules.
    """
    named: dict[str, tuple[str, str]] = {}  # name: (kind, docstring)

    def is_wanted(name: str) -> bool:
        return modules is None or name.partition(".")[0] in modules

    for name, kind, docstring in itertools.chain(_from_source(is_wanted), _from_compiled()):
        if is_wanted(name) and len(docstring) >= MIN_CHARACTERS and name.count(".") < MAX_NAME_PARTS:
            named.setdefault(name, (kind, _opening(docstring)))
    shortest: dict[str, str] = {}  # docstring: name
    for name in sorted(named, key=lambda name: (len(name), name)):
        shortest.setdefault(named[name][1], name)
    return [_document(name, *named[name]) for name in sorted(shortest.values())]


def _opening(docstring: str) -> str:
    """Return the first paragraphs: what fits OPENING_CHARACTERS, but never so few as to say nothing."""
    kept: list[str] = []
    for paragraph in docstring.split("\n\n"):
        n_kept = sum(map(len, kept))
        if n_kept >= MIN_CHARACTERS and n_kept + len(paragraph) > OPENING_CHARACTERS:
            break
        kept.append(paragraph)
    while len(kept) > 1 and kept[-1].endswith(":"):
        kept.pop()  # "Examples:", which are left out
    return "\n\n".join(kept)


def _document(name: str, kind: str, docstring: str) -> Document:
    """The name goes into the text: a method's docstring often leaves it to its name to say what it is about."""
    metadata = {"module": name.partition(".")[0], "kind": kind}
    return Document(id=name, text=f"{kind} {name}: {docstring}", metadata=metadata)


def _from_source(is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, str, str]]:
    """Yield name, kind and docstring of what the library's .py files define, those of wanted modules."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not parts or not all(part.isidentifier() and not part.startswith("_") for part in parts):
            continue  # private, or not a package (config-3.11-…)
        if not LEFT_OUT.isdisjoint(parts):
            continue
        name = ".".join(parts)
        name = PUBLIC_NAMES.get(name, name)
        if not is_wanted(name):
            continue
        try:
            with warnings.catch_warnings(action="ignore"):
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError):
            continue  # a sample of what Python must refuse, or a file that may not be read
        yield from _docstrings(tree, name, "module")


def _docstrings(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str, kind: str
) -> Iterator[tuple[str, str, str]]:
    if docstring := ast.get_docstring(node):
        yield name, kind, docstring
    if kind in ("function", "method"):
        return
    for inner in _definitions(node.body):
        if not inner.name.startswith("_"):
            function = "method" if kind == "class" else "function"
            inner_kind = "class" if isinstance(inner, ast.ClassDef) else function
            yield from _docstrings(inner, f"{name}.{inner.name}", inner_kind)


def _definitions(
    body: Iterable[ast.stmt],
) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    for statement in body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield statement
        elif isinstance(statement, ast.If | ast.Try):  # defined where the system or another module allows
            yield from _definitions(statement.body)
            yield from _definitions(statement.orelse)


def _from_compiled() -> Iterator[tuple[str, str, str]]:
    """Yield name, kind and docstring of what the modules in COMPILED define."""
    for module_name in COMPILED:
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            continue  # not on this system
        public = PUBLIC_NAMES.get(module_name, module_name.lstrip("_"))
        for name, thing in sorted(vars(module).items()):
            if name.startswith("_") or not (inspect.isroutine(thing) or inspect.isclass(thing)):
                continue
            path = f"{public}.{name}" if public else name
            yield path, "class" if inspect.isclass(thing) else "function", _clean_docstring(thing)
            if inspect.isclass(thing):
                for member_name, member in sorted(vars(thing).items()):
                    if not member_name.startswith("_"):
                        yield f"{path}.{member_name}", "method", _clean_docstring(member)


def _clean_docstring(thing: object) -> str:
    docstring = getattr(thing, "__doc__", None)
    if not isinstance(docstring, str) or docstring == type(thing).__doc__:  # a plain value has its class's
        return ""
    return inspect.cleandoc(docstring)
