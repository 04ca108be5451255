"""The command `twopass` against the real server: as people run it, or in this process where that proves the same."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import typer
from conftest import clustered, serving, twopass

from server import __version__, progress
from server.cli import app, sharing
from server.client import DEFAULT_URL

ROOT = Path(__file__).parent.parent
COMMANDS = (
    "serve", "ingest", "search", "rebuild", "compact", "plan", "evaluate", "reembed", "backup", "restore", "export",
    "import", "verify", "demo", "doctor", "key", "jobs", "models",
)  # fmt: skip


def environment(**more):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TWOPASS_")}
    return {**clean, "COLUMNS": "100", **more}


def run(*arguments, stdin="", **more):
    """Run the command as people do."""
    return subprocess.run(
        [sys.executable, "-m", "server.cli", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(**more),
        timeout=120,
    )


def started(*arguments, **more):
    return subprocess.Popen(
        [sys.executable, "-m", "server.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(**more),
    )


@pytest.fixture
def notes(tmp_path):
    """Three files, one of which is no text."""
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "shed.md").write_text("# Shed\n\nThe key to the garden shed hangs behind the kitchen clock.\n")
    (folder / "bread.html").write_text("<title>Bread</title><p>Knead flour, water and salt, then bake.</p>")
    (folder / "photo.txt").write_bytes(b"\xff\xd8\xff\0")
    return folder


def summary(stdout):
    """The counts in the first line of what an ingest prints."""
    found = re.match(
        r"(\d+) documents? stored: (\d+) new, (\d+) updated, (\d+) unchanged \((\d+) passages?\) in [\d.]+ s\.\n",
        stdout,
    )
    assert found, stdout
    return tuple(map(int, found.groups()))


def test_the_version_is_printed():
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"twopass {__version__}\n", "")


def test_help_lists_every_command():
    done = run("--help")
    assert done.returncode == 0
    assert re.findall(r"^  ([a-z]+)  ", done.stdout, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_has_an_example_and_its_exit_codes(command):
    done = twopass(command, "--help")
    assert done.code == 0
    assert f"\n    twopass {command} " in done.out
    assert "\n  Exit code: 0" in done.out


def every_command():
    """The words of each command, those below others included."""
    waiting = [([], typer.main.get_command(app))]
    while waiting:
        words, command = waiting.pop()
        if words:
            yield words, command
        if isinstance(command, typer.core.TyperGroup):
            waiting += [([*words, name], each) for name, each in command.commands.items()]


def test_every_command_below_another_has_an_example_and_its_exit_codes_too():
    found = {" ".join(words): command.epilog or "" for words, command in every_command()}
    assert len(found) > len(COMMANDS)
    assert {words for words, epilog in found.items() if f"\n  twopass {words}" not in epilog} == set()
    assert {words for words, epilog in found.items() if "\nExit code: 0" not in epilog} == set()


@pytest.mark.parametrize(
    ("line", "offered"),
    [("twopass ing", ["ingest"]), ("twopass jobs pa", ["pause"]), ("twopass ingest --exc", ["--exclude"])],
)
def test_a_shell_completes_commands_and_options(line, offered):
    words = len(line.split()) - 1
    done = run(_TWOPASS_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(words))
    assert (done.returncode, done.stdout.split()) == (0, offered)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_what_makes_a_shell_complete_is_installed_where_that_shell_looks(shell, tmp_path):
    done = run(
        "--show-completion", shell, HOME=str(tmp_path), _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1"
    )
    assert done.returncode == 0
    assert "_TWOPASS_COMPLETE" in done.stdout and "twopass" in done.stdout
    done = run(
        "--install-completion", shell, HOME=str(tmp_path), _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1"
    )
    assert done.returncode == 0, done.stderr
    assert any("_TWOPASS_COMPLETE" in path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_help_and_the_client_commands_import_nothing_heavy():
    script = """
import sys
from server import cli, readers, uploading
try:
    cli.app(["ingest", "--help"], prog_name="twopass")
finally:
    heavy = {"torch", "sentence_transformers", "faiss", "fastapi", "numpy"} & set(sys.modules)
    print(sorted(heavy), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stderr == "[]\n"


def test_a_folder_is_ingested_then_unchanged_and_found(texts, notes):
    done = run("ingest", notes, "--url", texts.url)
    assert done.returncode == 1  # the photo
    assert summary(done.stdout) == (2, 2, 0, 0, 2)
    assert done.stdout.splitlines()[1:] == ["Skipped: 1", f"  {notes}/photo.txt: is binary, not text"]

    (notes / "photo.txt").unlink()
    (notes / "bread.html").write_text(
        "<title>Bread</title><p>Knead rye flour, water and salt, then bake.</p>"
    )
    done = run("ingest", notes, TWOPASS_URL=texts.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert summary(done.stdout) == (2, 0, 1, 1, 1)

    words = ("search", "how do I get into the garden house", "-k", 1, "--explain", "--no-hybrid")
    done = run(*words, "--url", texts.url)
    assert (done.returncode, done.stderr) == (0, "")
    first, second, last = done.stdout.splitlines()
    identifier = f"{notes}/shed.md".lstrip("/")
    assert re.fullmatch(rf"  1  0\.\d{{3}}  {re.escape(identifier)}  prefix 0\.\d{{3}}, rank \d+ → 1", first)
    assert second.strip() == "# Shed The key to the garden shed hangs behind the kitchen clock."
    assert re.fullmatch(
        r"1 document · \d+ candidates · encode [\d.]+ ms · first pass [\d.]+ ms · second pass [\d.]+ ms · "
        r"total [\d.]+ ms( · certified)?",
        last,
    )
    words = ("search", "shed", "-k", 1, "--explain", "--hybrid", "--url", texts.url)
    first, *_, last = run(*words).stdout.splitlines()
    assert re.search(r"  words \d+\.\d, rank 1$", first)
    assert " · words " in last


def test_search_prints_the_servers_json(texts):
    twopass(
        "ingest",
        "-",
        "--url",
        texts.url,
        stdin='{"id": "kite", "text": "Kites need wind.", "metadata": {"n": 1}}',
    )
    done = twopass("search", "flying a kite", "-k", 1, "--mode", "exact", "--json", "--url", texts.url)
    answer = json.loads(done.out)
    assert done.code == 0
    assert answer["certified"] is True
    assert [(hit["id"], hit["metadata"]) for hit in answer["hits"]] == [("kite", {"n": 1})]


def test_a_certified_search_says_so_or_why_not(texts):
    lines = "\n".join(json.dumps({"id": f"proof-{n}", "text": f"proved note {n}"}) for n in range(30))
    assert twopass("ingest", "-", "--url", texts.url, stdin=lines).code == 0
    request = ("search", "proved", "-k", 3, "--mode", "certified", "--url", texts.url)
    done = twopass(*request)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1].endswith(" · certified")
    done = twopass(*request, "--max-read", 3)
    assert done.code == 0
    assert not done.out.splitlines()[-1].endswith(" · certified")
    assert done.err.startswith("Note: ") and "raise max_read" in done.err


def test_oversample_is_passed_on(texts):
    lines = "\n".join(json.dumps({"id": f"over-{n}", "text": f"oversampled note {n}"}) for n in range(30))
    assert twopass("ingest", "-", "--url", texts.url, stdin=lines).code == 0
    request = ("search", "oversampled", "-k", 10, "--json", "--url", texts.url)
    assert json.loads(twopass(*request, "--oversample", 1).out)["candidates"] <= 80
    assert len(json.loads(twopass(*request).out)["hits"]) == 10


def test_a_stored_text_cannot_steer_the_terminal(texts):
    evil = {"id": "evil \x1b[2J", "text": "zebra \x1b]0;owned\x07 crossing\r\nzebra"}
    twopass("ingest", "-", "--url", texts.url, stdin=json.dumps(evil))
    done = twopass("search", "zebra crossing", "-k", 1, "--url", texts.url)
    assert "zebra ]0;owned crossing zebra" in done.out
    assert not set("\x1b\x07\r") & set(done.out)


def test_standard_input_is_stored_under_an_id_made_of_its_content(texts):
    for counts in ((1, 1, 0, 0, 1), (1, 0, 0, 1, 0)):
        done = run("ingest", "-", "--url", texts.url, stdin="A letter about lighthouses.")
        assert (done.returncode, summary(done.stdout)) == (0, counts)


def test_one_bad_line_costs_no_other(texts, tmp_path):
    lines = [{"id": f"line-{n}", "text": f"line {n}"} for n in range(5)]
    lines[2] = {"id": "line-2", "vector": [1.0, 2.0]}
    file = tmp_path / "list.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\noops\n")
    done = twopass("ingest", file, "--url", texts.url)
    assert done.code == 1
    assert summary(done.out) == (4, 4, 0, 0, 4)
    assert done.out.splitlines()[1:] == [
        "Skipped: 1",
        f"  {file}, line 6: is not JSON: expecting value at column 1",
        "Refused by the server: 1",
        "  line-2: expected 384 dimensions, got 2",
    ]


def test_ids_can_be_relative_to_a_folder(texts, notes):
    twopass("ingest", notes, "--base", notes.parent, "--url", texts.url)
    assert texts.http.get("/documents/notes/shed.md").json()["metadata"] == {
        "path": f"{notes}/shed.md",
        "title": "Shed",
    }


def test_where_there_is_nothing_to_ingest_no_server_is_needed(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"")
    done = twopass("ingest", tmp_path, tmp_path / "missing", "--url", "http://127.0.0.1:1")
    assert done.code == 1
    assert done.out.splitlines() == [
        "There is nothing to ingest.",
        "Skipped: 1",
        f"  {tmp_path}/missing: there is no such file or folder",
        "Passed over: 1 file of other kinds (1 .png)",
    ]


@pytest.mark.parametrize("arguments", [("ingest", "README.md"), ("search", "anything")])
def test_without_a_server_two_lines_say_so_and_how_to_start_one(arguments, tmp_path):
    (tmp_path / "README.md").write_text("text")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        done = run(arguments[0], tmp_path / "README.md", "--url", url)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"twopass: No server answers at {url}.\n"
        "Start one with `twopass serve`, or name another with --url or TWOPASS_URL.\n"
    )


def test_a_question_that_the_server_refuses_is_told_with_its_hint(texts):
    done = twopass("search", " ", "--url", texts.url)
    assert (done.code, done.out) == (2, "")
    assert done.err == "twopass: The server refused: the query is empty\nSay what to search for.\n"


def test_an_address_that_is_none_is_told():
    done = twopass("search", "anything", "--url", "ftp://localhost")
    assert done.code == 2
    assert done.err.startswith("twopass: 'ftp://localhost' is no address of a server.\nWrite it like http://")


def test_the_key_comes_from_the_environment(serve, tmp_path):
    line = json.dumps({"id": "a", "vector": [1.0, 0.0]})
    with serve(tmp_path, encoder__model="none", encoder__dim=2, server__api_key="secret") as server:
        refused = run("ingest", "-", "--url", server.url, stdin=line)
        assert refused.returncode == 2
        assert refused.stderr.endswith("\nGive the server's key with --api-key or TWOPASS_API_KEY.\n")
        watching = run("ingest", "docs", "--watch", "--url", server.url)
        assert watching.returncode == 2
        assert watching.stderr.endswith("\nGive the server's key with --api-key or TWOPASS_API_KEY.\n")
        taken = run("ingest", "-", "--url", server.url, stdin=line, TWOPASS_API_KEY="secret")
        assert (taken.returncode, summary(taken.stdout)) == (0, (1, 1, 0, 0, 1))
        assert server.stop() == 0


def test_ctrl_c_ends_an_ingest_with_what_was_stored(tmp_path):
    second_request, release = threading.Event(), threading.Event()

    class Slow(BaseHTTPRequestHandler):
        requests = 0

        def do_GET(self):
            self._answer({"name": "twopass"})

        def do_POST(self):
            documents = json.loads(self.rfile.read(int(self.headers["content-length"])))["documents"]
            Slow.requests += 1
            if Slow.requests == 2:
                second_request.set()
                release.wait()
                return
            ids = [document["id"] for document in documents]
            counts = {"created": len(ids), "updated": 0, "unchanged": 0, "passages": len(ids)}
            self._answer({"ids": ids, **counts, "warnings": [], "took_ms": 1.0})

        def _answer(self, body):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *args):
            pass

    file = tmp_path / "list.jsonl"
    file.write_text("\n".join(json.dumps({"id": str(n), "text": f"text {n}"}) for n in range(600)))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        process = started("ingest", file, "--url", f"http://127.0.0.1:{server.server_port}")
        assert second_request.wait(60)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        release.set()
        server.shutdown()
        thread.join()
        server.server_close()
    assert (process.returncode, stderr) == (130, "")
    said, counts = stdout.split("\n", 1)
    assert said == "Interrupted. The same command goes on where it stopped: what is stored is skipped."
    assert summary(counts) == (256, 256, 0, 0, 256)


def test_progress_is_plain_lines_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress, "PLAIN_PROGRESS_S", 0.0)
    with progress.progress(1200) as on_done:
        on_done(300)
        on_done(900)
        on_done(0, more=300)
    first, second, third = capsys.readouterr().err.splitlines()
    assert third.startswith("1,200 of 1,500 documents · ") and third.endswith(" left")
    assert re.fullmatch(r"300 of 1,200 documents · [\d,.]+/s · [\d.]+ s left", first)
    assert re.fullmatch(r"1,200 of 1,200 documents · [\d,.]+/s", second)


def test_progress_is_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with progress.progress(None) as on_done:
        on_done(7)
    assert "━" in capsys.readouterr().err


def test_the_progress_of_a_check_is_a_bar_on_a_terminal_and_silent_elsewhere(monkeypatch, capsys):
    with progress.check_progress() as on_progress:
        on_progress(3, 9)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with progress.check_progress() as on_progress:
        on_progress(3000, 9000)
    shown = capsys.readouterr().err
    assert "━" in shown and "3,000 of 9,000 vectors" in shown


def test_serve_takes_its_options_and_ends_cleanly(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("encoder: {model: none, dim: 4}\nserver: {port: 1}\ndata_dir: /nowhere\n")
    process = started(
        "serve", "--config", config, "--data-dir", tmp_path / "data", "--port", 0, "--check", "all",
        TWOPASS_LOG__FORMAT="json",
    )  # fmt: skip
    assert process.stderr is not None
    listening = json.loads(process.stderr.readline())
    assert listening["event"] == "listening"
    assert listening["data_dir"] == str(tmp_path / "data")
    done = run("ingest", "-", "--url", listening["url"], stdin='{"id": "a", "vector": [1, 0, 0, 0]}')
    assert (done.returncode, summary(done.stdout)) == (0, (1, 1, 0, 0, 1))
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == ""
    assert process.returncode == 0


def test_serve_ends_cleanly_when_the_signal_comes_while_it_is_loading(tmp_path):
    process = started("serve", "--data-dir", tmp_path, "--port", 0)
    while not (tmp_path / "lock").exists():  # held from before the model is loaded
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (0, "")
    assert "listening" not in stderr  # it was still loading
    assert "Traceback" not in stderr


def test_serve_says_in_two_lines_why_it_cannot_start(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("serve", "--data-dir", tmp_path, "--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    what, hint = done.stderr.splitlines()
    assert what.startswith(f"twopass: can't listen on 127.0.0.1 port {port}: ")
    assert "TWOPASS_SERVER__PORT" in hint


def test_serve_names_a_setting_that_is_none(tmp_path):
    done = run("serve", "--data-dir", tmp_path, TWOPASS_SERVER__PROT="9000")
    assert done.returncode == 1
    assert done.stderr == (
        "twopass: environment: there is no setting TWOPASS_SERVER__PROT. The nearest is TWOPASS_SERVER__PORT.\n"
        "Correct this and start again; config.yaml explains every setting.\n"
    )


@pytest.fixture
def stored(serve, tmp_path):
    """A data folder with two documents, no server running."""
    folder = tmp_path / "data"
    with serve(folder, encoder__model="none", encoder__dim=4) as server:
        documents = [{"id": name, "vector": [1.0, at, 0.0, 0.0]} for at, name in enumerate("ab")]
        assert server.http.post("/documents", json={"documents": documents}).status_code == 201
        assert server.stop() == 0
    return folder


def test_verify_finds_nothing_wrong_with_sound_data(stored):
    done = twopass("verify", "--data-dir", stored)
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(
        rf"{re.escape(str(stored))}: no problems\. Checked 2 documents and 2 vectors \(0\.0 MB\) in [\d.]+ s\.\n",
        done.out,
    )
    report = json.loads(twopass("verify", "--json", TWOPASS_DATA_DIR=str(stored)).out)
    assert (report["ok"], report["problems"], report["documents"], report["rows"]) == (True, [], 2, 2)


def test_verify_tells_damage_and_what_to_do(stored):
    [vectors] = stored.glob("collections/default/vectors-*")
    vectors.write_bytes(b"\1" + vectors.read_bytes()[1:])
    done = twopass("verify", "--data-dir", stored)
    assert done.code == 1
    assert "client_vector_damaged: the vector of document 'a' came from a client and is damaged\n" in done.out
    assert "    Send this document again.\n" in done.out
    report = json.loads(twopass("verify", "--data-dir", stored, "--json").out)
    assert report["ok"] is False
    assert {"vectors_damaged", "client_vector_damaged"} <= {problem["code"] for problem in report["problems"]}


def test_verify_says_when_there_is_nothing_to_check(tmp_path):
    done = twopass("verify", "--data-dir", tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[0] == f"twopass: there is no collection in {tmp_path}"


def test_the_commands_and_the_client_agree_on_the_servers_address():
    assert sharing.LOCAL_SERVER == DEFAULT_URL


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A server with rows enough for a first pass to be made."""
    settings = {"encoder__model": "none", "encoder__dim": 16}
    with serving(tmp_path_factory.mktemp("large"), **settings) as server:
        documents = [
            {"id": str(n), "vector": row.tolist()} for n, row in enumerate(clustered(1200, 16, seed=1))
        ]
        assert server.http.post("/documents", json={"documents": documents}).status_code == 201
        yield server
        assert server.stop() == 0


def test_rebuild_waits_and_tells_what_was_made(large):
    done = twopass(
        "rebuild", "--codec", "float16", "--order", "model", "--prefix-dim", 8, "--wait", "--url", large.url
    )
    assert done.code == 0
    first, second = done.out.splitlines()
    assert re.fullmatch(
        r"Made in [\d.]+ s from 1,200 rows: flat, float16, 8 dimensions, model order", first
    ), first
    assert re.fullmatch(
        r"  recall in the pool [01]\.\d{4} with [\d.]+ candidates a hit · scan \d+\.\d\d ms · 16 bytes a row",
        second,
    ), second
    first_pass = large.http.get("/stats").json()["first_pass"]
    assert (first_pass["codec"], first_pass["order"], first_pass["prefix_dim"]) == ("float16", "model", 8)
    assert set(done.err.splitlines()) <= {
        f"{stage} …" for stage in ("sampling", "training", "filling", "measuring")
    }


def test_rebuild_without_waiting_names_the_job(large):
    done = twopass("rebuild", "--url", large.url)
    assert (done.code, done.err) == (0, "")
    found = re.fullmatch(
        r"The rebuild is (?:waiting|running); GET /jobs/(\w+) tells how far it is, as --wait would have\.\n",
        done.out,
    )
    assert found, done.out
    assert large.http.get(f"/jobs/{found[1]}").status_code == 200
    job = json.loads(twopass("rebuild", "--wait", "--json", "--codec", "int8", "--url", large.url).out)
    assert (job["status"], job["result"]["plan"]["codec"]) == ("done", "int8")


def test_rebuild_tells_what_the_server_refuses(large):
    done = twopass("rebuild", "--prefix-dim", 17, "--url", large.url)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[0] == (
        "twopass: The server refused: prefix_dim is 17, but the vectors have 16 dimensions"
    )


def test_rebuild_says_when_there_is_nothing_to_do(serve, tmp_path):
    with serve(tmp_path, encoder__model="none", encoder__dim=2) as server:
        done = twopass("rebuild", "--wait", "--url", server.url)
        assert server.stop() == 0
    assert done.code == 0
    assert done.out == (
        "There is nothing to rebuild: the server has fewer than 1,000 rows and keeps them as they are.\n"
    )


def test_plan_says_what_a_collection_takes():
    done = twopass("plan", "--rows", 5_000_000, "--dim", 768, "--memory", "512M")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "5,000,000 rows of 768 dimensions, float16, 512 MB of memory for the first pass"
    for name in ("first pass", "order", "memory", "disk", "candidates", "search"):
        assert any(line.startswith(f"  {name} ") for line in lines), name
    assert "  disk        " in done.out and "vectors 7.7 GB, bounds 1.3 GB, first pass" in done.out
    assert re.search(
        r"^ +5\.1 GB .* flat, float32, 256 dimensions  \(more than there is\)$", done.out, re.MULTILINE
    )


def test_plan_says_plainly_when_nothing_fits():
    done = twopass("plan", "--rows", 5_000_000, "--dim", 768, "--memory", "64M")
    assert done.code == 1
    assert "\nNothing fits: the smallest form takes 120 MB. It is\n" in done.out


def test_plan_as_json_with_a_trial(tmp_path):
    done = run(
        "plan",
        "--rows",
        40_000,
        "--dim",
        64,
        "--verify",
        "--verify-rows",
        2000,
        "--json",
        TMPDIR=str(tmp_path),
    )
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert told["best"]["fits"] is True and told["question"]["n_rows"] == 40_000
    assert told["verified"]["n_rows"] == 2000 and told["verified"]["recall"] > 0.9
    assert done.stderr.splitlines()[0] == "making vectors …"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--rows", 2000, "--dim", 8, "--memory", "lots"), "--memory: index.memory_budget can't be 'lots'"),
        (("--rows", 2000, "--dim", 8, "--memory", "512"), "write a unit"),
        (("--rows", 999, "--dim", 8), "--rows"),
        (("--rows", 2000, "--dim", 8, "--target-recall", 2), "--target-recall"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(arguments, words):
    done = twopass("plan", *arguments)
    assert (done.code, done.out) == (2, "")
    assert words in done.err
