"""docs/tutorial.md, done as it says: each block of commands is run, and what is shown below it compared."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import called, serving

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/tutorial.md").read_text()
DEFAULT_URL = "http://127.0.0.1:8000"
BLOCK = re.compile(r"^```sh\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
BLOCKS = BLOCK.findall(PAGE)
INSTALLING, SERVING = BLOCKS[:3], BLOCKS[3]
DOING = BLOCKS[4:]


def masked(text):
    """Without what differs from run to run and from machine to machine: numbers."""
    return re.sub(r"\d[\d.,]*", "#", text).strip()


def run_commands(block, server, folder):
    """Run a block line by line through `twopass` in this process, or through bash where there is more to it."""
    lines = block.splitlines()
    if not all(line.startswith("twopass ") for line in lines):
        script = block.replace(DEFAULT_URL, server.url)
        told = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env={**os.environ, "NO_PROXY": "*"},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert told.returncode == 0, (block, told.stderr)
        return told.stdout
    printed = []
    for line in lines:
        told = called(server.data_dir, *shlex.split(line)[1:], url=server.url)
        assert told.code == 0, (line, told.out, told.err)
        printed.append(told.out)
    return "".join(printed)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """What each block has printed, in the order of the page, against a server of its own."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    folder = tmp_path_factory.mktemp("tutorial")
    with pytest.MonkeyPatch.context() as patch, serving(folder / "data") as server:
        server.data_dir = folder / "data"
        patch.chdir(folder)
        patch.setenv("COLUMNS", "100")
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        yield [run_commands(block, server, folder) for block, _ in DOING]
        server.stop()


def test_every_block_shows_what_its_commands_print(done):
    for (block, shown), printed in zip(DOING, done, strict=True):
        if shown:
            assert masked(printed) == masked(shown), block


def test_what_is_shown_is_not_nothing():
    assert len([shown for _, shown in DOING if shown.strip()]) >= 8


def test_the_right_documents_are_found(done):
    """Numbers aren't compared above; the order of what is found is in the ids."""
    by_block = {block: printed for (block, _), printed in zip(DOING, done, strict=True)}
    (found,) = (printed for block, printed in by_block.items() if "garden house" in block)
    assert found.splitlines()[0].split()[2] == "notes/shed.txt"
    certified, exact = (printed for block, printed in by_block.items() if "--mode" in block)
    assert certified.splitlines()[0] == exact.splitlines()[0]
    assert "certified" in certified.splitlines()[-1] and "certified" in exact.splitlines()[-1]


def test_it_is_served_as_the_page_says():
    assert SERVING == ("twopass serve\n", "")


def test_installing_is_what_make_and_the_container_do():
    pip, make, container = (block.splitlines() for block, _ in INSTALLING)
    (pin,) = re.findall(r'"(torch==[\d.]+)"', (ROOT / "pyproject.toml").read_text())
    (index,) = re.findall(r"^TORCH_INDEX := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert pip == [
        "python3 -m venv .venv",
        ". .venv/bin/activate",
        f"pip install --extra-index-url {index} {pin}+cpu",
        "pip install .",
    ]
    assert make == ["make setup", ". .venv/bin/activate"]
    (service,) = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert container == ["docker compose up -d", f"docker compose logs {service}"]
