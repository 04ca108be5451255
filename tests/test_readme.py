"""The documents hold: every command of the README is run here, and tables, routes, fields and links are compared."""

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import yaml
from conftest import environment, serving

from server.api import problems
from server.api.status_schemas import InfoOut, StatsOut
from server.errors import ANSWERS
from server.settings import OTHER_VARIABLES, setting_fields, variable_name

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
HTTP = (ROOT / "docs/http.md").read_text()
PAGES = sorted(
    page
    for page in ROOT.rglob("*.md")
    if not any(part.startswith(".") for part in page.relative_to(ROOT).parts)
)

DEFAULT_URL = "http://127.0.0.1:8000"
TWOPASS = ".venv/bin/twopass"


def fences(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(text):
    """The commands of all sh blocks, each as its words; a quoted argument may span lines."""
    found = []
    for block in fences(text, "sh"):
        words = []
        for line in block.splitlines(keepends=True):
            words.append(line)
            try:
                split = shlex.split("".join(words), comments=True)
            except ValueError:  # a quotation is still open
                continue
            words = []
            if split:
                found.append(split)
        assert not words, f"a quotation is never closed: {words}"
    return found


COMMANDS = commands(README)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with the bundled model and nothing stored, as a reader of the README has it."""
    data_dir = tmp_path_factory.mktemp("readme")
    with serving(data_dir) as running:
        running.data_dir = data_dir
        yield running
        running.stop()


def run_curl(words, server):
    words = [word.replace(DEFAULT_URL, server.url) for word in words]
    assert any(server.url in word for word in words), f"{words} doesn't ask the server at {DEFAULT_URL}"
    told = subprocess.run(
        [*words, "--fail-with-body", "--noproxy", "*"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert told.returncode == 0, (words, told.stdout, told.stderr)
    return json.loads(told.stdout)


def run_twopass(words, server):
    told = subprocess.run(
        [sys.executable, "-m", "server.cli", *words[1:]],
        env=environment(server.data_dir, url=server.url), cwd=ROOT,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert told.returncode == 0, (words, told.stdout, told.stderr)
    return told.stdout


def check_make(words):
    targets = [word for word in words[1:] if "=" not in word]
    made = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets and set(targets) <= set(made), words  # make would take a folder's name for a target
    told = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 0, (words, told.stderr)


def check_docker(words):
    assert words[1:4] == ["compose", "up", "-d"], words
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    (name, service), (volume,) = *compose["services"].items(), compose["volumes"]
    assert service["ports"] == ["127.0.0.1:8000:8000"]
    assert f"{volume}:/data" in service["volumes"]
    said = f"the service `{name}` on port 8000 of 127.0.0.1, with its data in the volume `{volume}`"
    assert said in " ".join(README.split())


def needs(program):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def test_every_command_of_the_readme_has_a_rule():
    assert [words for words in COMMANDS if words[0] not in ("make", "docker", "curl", TWOPASS)] == []
    assert {words[0] for words in COMMANDS} == {"make", "docker", "curl", TWOPASS}


def test_commands_are_read_with_their_quotations():
    text = "```sh\necho 'one\ntwo' 3  # four\n\nls\n```\n"
    assert commands(text) == [["echo", "one\ntwo", "3"], ["ls"]]


def test_make_targets_of_the_readme_exist():
    needs("make")
    for words in COMMANDS:
        if words[0] == "make":
            check_make(words)


def check_benchmark(words):
    """`python -m benchmarks NAME` or `python -m benchmarks.NAME`: NAME is a module or a package."""
    module, *rest = words[words.index("-m") + 1 :]
    name = module.partition("benchmarks.")[2] or next(
        (word for word in rest if word[0] not in "-["), "__main__"
    )
    found = ROOT / "benchmarks" / name
    assert found.is_dir() or found.with_suffix(".py").exists(), words


def test_commands_of_the_benchmarks_page_name_what_exists():
    needs("make")
    found = commands((ROOT / "benchmarks/README.md").read_text())
    made = [words for words in found if words[0] == "make"]
    run = [words for words in found if any(word.startswith("benchmarks") for word in words) and "-m" in words]
    assert made and run
    for words in made:
        check_make(words)
    for words in run:
        check_benchmark(words)


def test_compose_is_what_the_readme_says():
    found = [words for words in COMMANDS if words[0] == "docker"]
    assert found
    for words in found:
        check_docker(words)


def test_curl_and_twopass_commands_of_the_readme_work_in_their_order(server):
    needs("curl")
    added, found = (run_curl(words, server) for words in COMMANDS if words[0] == "curl")
    assert (added["ids"], added["created"]) == (["otter", "kettle"], 2)
    (shown,) = fences(README, "json")
    assert settled(json.loads(shown)) == settled(found)
    explained = {"query": "how do animals rest?", "k": 1, "include": ["text", "metadata", "explain"]}
    found = server.http.post("/search", json=explained).json()
    (shown,) = [each for each in fences(HTTP, "json") if '"hits"' in each]
    assert settled(json.loads(shown)) == settled(found)
    _, searched, verified, looked_at, planned = (
        run_twopass(words, server) for words in COMMANDS if words[0] == TWOPASS
    )
    assert "docs/" in searched.splitlines()[0]
    assert "no problems" in verified
    assert looked_at.startswith(f"As the server at {server.url} says:")
    assert planned.startswith("5,000,000 rows of 768 dimensions") and "first pass" in planned


def settled(value):
    """An answer without its times and cold reads, and with numbers as exact as every machine gives them."""
    if isinstance(value, dict):
        return {
            name: 0 if name.endswith("_ms") or name == "cold_reads" else settled(each)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [settled(each) for each in value]
    return pytest.approx(value, abs=0.005) if isinstance(value, float) else value


def test_stored_vectors_are_read_by_the_lines_on_the_page(server, monkeypatch):
    server.http.post("/documents", json={"documents": [{"text": "a text"}]}).raise_for_status()
    monkeypatch.chdir(server.data_dir / "collections/default")
    (lines,) = fences((ROOT / "docs/how-it-works.md").read_text(), "python")
    names = {}
    exec(lines, names)
    vectors = np.asarray(names["vectors"], np.float32)
    assert vectors.shape == (server.http.get("/stats").json()["rows"], 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=2e-3)


def answers_of_the_framework():
    """(code, status or None, hint) of every Answer that server/api/problems.py makes."""
    for node in ast.walk(ast.parse(Path(problems.__file__).read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Answer":
            status, code, _, hint = (getattr(argument, "value", None) for argument in node.args)
            yield code, status if isinstance(status, int) else None, hint


def test_the_table_of_codes_is_the_codes_own():
    known = [(each.code, each.status, each.hint) for each in ANSWERS.values()] + [*answers_of_the_framework()]
    statuses = {code: status for code, status, _ in known}
    hints = {code: {hint for other, _, hint in known if other == code} for code in statuses}
    rows = re.findall(r"^\| `(\w+)` \| (\d{3}|any) \| (.+) \| (.+) \|$", HTTP, re.MULTILINE)
    written = {code: None if status == "any" else int(status) for code, status, _, _ in rows}
    assert len(written) == len(rows), "a code stands there twice"
    assert written == statuses
    assert {code: hint for code, _, _, hint in rows if hint not in hints[code]} == {}


@pytest.mark.parametrize(("route", "model"), [("/stats", StatsOut), ("/info", InfoOut)])
def test_a_status_route_answers_with_what_openapi_says(server, route, model):
    """Nothing compares an answer with its model when it is sent."""
    found = server.http.get(route).json()
    model.model_validate(found, extra="forbid")
    assert set(found) == set(model.model_fields)


def test_routes_that_the_pages_name_exist(server):
    paths = server.http.get("/openapi.json").json()["paths"]
    known = {
        (method.upper(), re.sub(r"{\w+}", "{}", path))
        for path, methods in paths.items()
        for method in methods
    }
    known |= {("GET", path) for path in ("/", "/docs", "/openapi.json")}
    named = {
        (page.name, method, re.sub(r"{\w+}", "{}", path))
        for page in PAGES
        for method, path in re.findall(r"`(GET|POST|DELETE) (/[^`?|\s]*)", page.read_text())
    }
    assert named and {each for each in named if each[1:] not in known} == set()


def anchors(text):
    """Headings as GitHub makes links of them."""
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    broken = []
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / unquote(path)).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)
    assert broken == []


def test_settings_that_the_pages_name_exist():
    keys = set(setting_fields())
    sections = "|".join({key.partition(".")[0] for key in keys if "." in key})
    known = keys | OTHER_VARIABLES | {variable_name(key) for key in keys}
    named = {
        (page.name, name)
        for page in PAGES
        for name in re.findall(rf"\bTWOPASS_[A-Z_]+[A-Z]\b|(?<=`)(?:{sections})\.\w+", page.read_text())
    }
    assert {each for each in named if each[1] not in known} == set()
