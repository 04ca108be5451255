"""schemathesis over the whole OpenAPI document: no server error, answers as described, errors in one shape.

It is run as its users run it, from the command line, against a real server. How many cases it tried is printed:
`python -m pytest -n 0 -s -m faults tests/test_schemathesis.py`.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import serving

TESTS = Path(__file__).parent
KEY = "a-key-of-32-letters-for-the-tests"
DOCUMENTS = [
    {"id": f"d{n}", "text": f"The {n}th text, about otters.", "metadata": {"n": n, "topic": "animals"}}
    for n in range(40)
]


UNTRUE_HERE = [
    "positive_data_acceptance",  # what a server takes depends on its model and its data too, which no schema says
    "allow_header_conformance",  # `delete` and `compare` are ids too, which can be got and deleted
]


def tried(server, folder, *options):
    """Run it with all its checks, and ours; return how many operations it tried with how many cases. All passed."""
    words = [
        "run",
        f"{server.url}/openapi.json",
        "--no-color",
        "--continue-on-failure",
        "--no-shrink",
        "--checks",
        "all",
    ]
    done = subprocess.run(
        [Path(sys.executable).with_name("schemathesis"), *words, "--generation-database", "none", *options],
        env=os.environ
        | {"SCHEMATHESIS_HOOKS": "schemathesis_checks", "PYTHONPATH": str(TESTS), "NO_PROXY": "*"},
        cwd=folder,  # where it keeps what failed
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (summary,) = re.findall(r"^  (\d+) generated, (\d+) passed", done.stdout, re.MULTILINE)
    assert summary[0] == summary[1], done.stdout
    (tested,) = re.findall(r"^  Tested: (\d+)", done.stdout, re.MULTILINE)
    return int(tested), int(summary[0])


def check_log(server):
    """It still answers, and nothing happened that nobody foresaw."""
    assert server.http.get("/livez").status_code == 200
    assert server.stop() == 0
    assert [line for line in server.log if line["level"] in ("error", "critical")] == []
    assert server.other == []


def test_the_examples_of_openapi_are_taken(tmp_path):
    with serving(tmp_path) as server:
        server.http.post("/documents", json={"documents": DOCUMENTS}).raise_for_status()
        # That of /index/reembed is a model on the hub.
        n_operations, n_cases = tried(
            server, tmp_path, "--phases", "examples", "--exclude-path", "/index/reembed"
        )
        assert n_cases >= n_operations >= 8
        check_log(server)


@pytest.mark.faults
@pytest.mark.parametrize(
    "settings",
    [
        {"server__api_key": KEY},
        {"encoder__model": "none", "encoder__dim": 8, "index__prefix_dim": 4},
    ],
    ids=["texts, with a key", "vectors"],
)
def test_whatever_is_made_up_gets_an_answer_in_its_schema_or_an_error_in_ours(
    tmp_path, monkeypatch, settings
):
    """Right and wrong data, by chance and by going through the schema; one request, and several in a row."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # a hub model's name is one of the examples
    (tmp_path / "schemathesis.toml").write_text(f'[auth.openapi.bearer]\nbearer = "{KEY}"\n')
    with serving(tmp_path / "data", **settings) as server:
        documents = DOCUMENTS
        if "encoder__dim" in settings:
            documents = [{**each, "vector": [1.0, n, *[0.5] * 6]} for n, each in enumerate(DOCUMENTS)]
        server.http.headers["authorization"] = f"Bearer {KEY}"
        server.http.post("/documents", json={"documents": documents}).raise_for_status()
        without = ["--exclude-checks", ",".join(UNTRUE_HERE)]
        n_operations, n_cases = tried(server, tmp_path, *without, "--max-time", "120")
        print(f"schemathesis: {n_operations} operations, {n_cases} cases, all passed")
        described = server.http.get("/openapi.json").json()["paths"]
        assert n_operations == sum(map(len, described.values()))
        assert n_cases > 100 * n_operations
        check_log(server)
