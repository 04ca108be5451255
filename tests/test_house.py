"""The house rules that a parser can hold: who imports what, and that every error has an answer."""

import ast
from pathlib import Path

import pytest

from index import errors as index_errors
from server import errors
from server.encoders import errors as encoder_errors

ROOT = Path(__file__).parent.parent

ROOMS = {
    # a foreign thing: where it may be imported
    "faiss": "index/first_pass/",
    "sqlite3": ("server/catalog/", "server/folders/ledger.py"),
    "fcntl": {"index/durable.py"},
    "yaml": {"server/settings.py"},
    "sentence_transformers": {"server/encoders/torch_model.py", "server/encoders/tracing.py"},
    "torch": {"server/encoders/torch_model.py", "server/encoders/exporting.py", "server/encoders/tracing.py"},
    "onnx": {f"server/encoders/{name}.py" for name in ("exporting", "weight_files", "quantising")},
    "transformers": {"server/encoders/torch_model.py", "server/encoders/tracing.py"},
    "huggingface_hub": {"server/encoders/hub.py", "server/encoders/hub_files.py"},
    "tokenizers": "server/encoders/",
    "onnxruntime": "server/encoders/",
    "httpx": ("server/client.py", "server/encoders/remote_"),
    "fastapi": ("server/app.py", "server/api/"),
    "starlette": ("server/app.py", "server/api/"),
    "uvicorn": {"server/app.py", "server/api/connections.py"},
    "prometheus_client": {"server/metrics.py", "server/readings.py"},
    "markitdown": {"server/converting/office.py"},
    "markdown_it": {"server/markdown.py"},
    "pathspec": {"server/folders/ignoring.py"},
    "watchfiles": {"server/folders/watching.py"},
    "typer": "server/cli/",
    "matplotlib": {"server/models/plot.py", "server/recall_plot.py"},
}


def modules():
    for path in sorted([*(ROOT / "index").rglob("*.py"), *(ROOT / "server").rglob("*.py")]):
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_each_foreign_thing_has_one_room():
    found = []
    for name, tree in modules():
        for module in imports(tree):
            rooms = ROOMS.get(module.partition(".")[0])
            if rooms is not None:
                is_there = name in rooms if isinstance(rooms, set) else name.startswith(rooms)
                if not is_there:
                    found.append((name, module))
    assert found == []


def test_the_index_knows_nothing_of_the_server():
    assert [
        (name, module)
        for name, tree in modules()
        for module in imports(tree)
        if name.startswith("index/") and module.partition(".")[0] in ("server", "pydantic")
    ] == []


def test_the_index_writes_json_in_one_place_only():
    """Its own manifest; requests, answers and metadata are the server's."""
    users = [name for name, tree in modules() if name.startswith("index/") and "json" in set(imports(tree))]
    assert users == ["index/first_pass/files.py"]


def test_fsync_and_replace_live_in_one_room():
    calls = {"fsync", "fdatasync", "rename", "flock"}
    found = [
        (name, node.func.attr)
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in calls
        if name != "index/durable.py"
    ]
    assert found == []


def calls_at_once(node):
    """The calls that evaluating this makes; not those that a lambda in it would make later."""
    if isinstance(node, ast.Call):
        yield node
    if not isinstance(node, ast.Lambda):
        for child in ast.iter_child_nodes(node):
            yield from calls_at_once(child)


def test_importing_a_module_does_nothing():
    """At module level: imports, definitions and constants; no call that opens, starts or loads something."""
    harmless = {
        "frozenset", "TypeVar", "ParamSpec", "Path", "compile", "getLogger", "APIRouter", "dtype", "Field",
        "SecretStr", "Argument", "Option", "Typer", "field", "dataclass", "ConfigDict", "Answer", "setattr",
        "getattr", "empty", "Depends", "GetPydanticSchema", "split", "set", "tuple", "dict", "namedtuple",
        "escape", "join", "fromkeys", "maketrans", "KnownModel", "Lanes", "add_typer",
    }  # fmt: skip
    found = []
    for name, tree in modules():
        for node in tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign | ast.Expr) and node.value is not None:
                for call in calls_at_once(node.value):
                    function = call.func
                    called = function.attr if isinstance(function, ast.Attribute) else function.id
                    if called not in harmless:
                        found.append((name, called))
    assert found == []


def family(root):
    yield root
    for child in root.__subclasses__():
        yield from family(child)


@pytest.mark.parametrize("root", [index_errors.IndexFault, errors.ServiceError, encoder_errors.EncoderError])
def test_every_error_has_an_answer_of_its_own(root):
    mine = [kind for kind in family(root) if kind.__module__.startswith(("index.", "server."))]
    assert [kind.__name__ for kind in mine if kind not in errors.ANSWERS] == []


def test_answers_have_a_code_for_programs_and_a_hint_for_people():
    for kind, answer in errors.ANSWERS.items():
        assert 400 <= answer.status < 600, kind
        assert answer.code == answer.code.lower().replace(" ", "_")
        assert answer.title and answer.hint


def test_the_nearest_class_answers():
    assert errors.answer_for(index_errors.DiskFullError("x")).status == 507

    class Surprise(errors.NotFoundError):
        pass

    assert errors.answer_for(Surprise("x")).code == "not_found"
    assert errors.answer_for(ValueError("x")) is None
