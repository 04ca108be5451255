"""What is known of models, which are here, and fetching them: a real hub's protocol on the loopback."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import twopass
from fake_hub import Hub

from index.durable import DirectoryLock
from server.encoders.errors import ModelDamaged, ModelNotFound
from server.encoders.hub import repository_of
from server.encoders.known import KNOWN_MODELS, RETRIEVAL_PROMPT, known, prefix_warnings
from server.models.pulling import MANIFEST_NAME, pull
from server.models.shelf import Where, all_entries, look_up

ROOT = Path(__file__).parent.parent
NOMIC, ARCTIC = "nomic-ai/nomic-embed-text-v1.5", "Snowflake/snowflake-arctic-embed-m-v1.5"
MINILM, QWEN = "sentence-transformers/all-MiniLM-L6-v2", "Qwen/Qwen3-Embedding-0.6B"


def run(*arguments, **more):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TWOPASS_")}
    return subprocess.run(
        [sys.executable, "-m", "server.cli", "models", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**clean, "COLUMNS": "100", **more},
        timeout=120,
    )


# --- what is known


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("bundled", MINILM),
        ("all-MiniLM-L6-v2", MINILM),
        ("SENTENCE-TRANSFORMERS/ALL-MINILM-L6-V2", MINILM),
        ("all-minilm", MINILM),
        ("all-minilm:latest", MINILM),
        ("all-minilm:22m-l6-v2-fp16", MINILM),
        ("nomic-embed-text", NOMIC),
        ("nomic-embed-text:137m-v1.5-fp16", NOMIC),
        ("nomic-embed-text-v1.5", NOMIC),
        ("library/nomic-embed-text:v1.5", NOMIC),
        ("text-embedding-nomic-embed-text-v1.5@q8_0", NOMIC),
        ("hf.co/nomic-ai/nomic-embed-text-v1.5-GGUF:Q8_0", NOMIC),
        (" nomic-ai/Nomic-Embed-Text-v1.5 ", NOMIC),
        ("qwen3-embedding:0.6b", QWEN),
        ("qwen3-embedding:0.6b-q4_K_M", QWEN),
        ("snowflake-arctic-embed2", "Snowflake/snowflake-arctic-embed-l-v2.0"),
        ("mxbai-embed-large:335m-v1-fp16", "mixedbread-ai/mxbai-embed-large-v1"),
        ("embeddinggemma:300m-qat-q8_0", "google/embeddinggemma-300m"),
        ("openai/text-embedding-3-large", "text-embedding-3-large"),
        ("text-embedding-3-small", "text-embedding-3-small"),
    ],
)
def test_a_model_is_known_by_all_the_names_that_programs_give_it(spelled, name):
    assert known(spelled).name == name


@pytest.mark.parametrize(
    "name",
    [
        "all-minilm:33m",  # Ollama's L12
        "all-minilm:l12-v2",
        "qwen3-embedding",  # Ollama's, of 8B
        "qwen3-embedding:4b",
        "snowflake-arctic-embed:110m",  # version 1
        "nomic-embed-text-v2-moe",
        "somebody/nomic-embed-text-v1.5",  # perhaps trained further
        "nomic-ai/nomic-embed-text-v1",
        "text-embedding-ada-002",
        "/models/nomic-embed-text-v1.5",
        "",
    ],
)
def test_another_model_of_a_like_name_is_not_known(name):
    assert known(name) is None


def test_the_prompts_are_those_of_the_model_cards_to_the_letter():
    prompts = {model.name: (model.query_prompt, model.document_prompt) for model in KNOWN_MODELS}
    assert prompts[NOMIC] == ("search_query: ", "search_document: ")
    assert prompts[ARCTIC] == (RETRIEVAL_PROMPT, "")
    assert RETRIEVAL_PROMPT == "Represent this sentence for searching relevant passages: "
    assert prompts["Snowflake/snowflake-arctic-embed-m-v2.0"] == ("query: ", "")
    assert prompts["google/embeddinggemma-300m"] == ("task: search result | query: ", "title: none | text: ")
    assert prompts[QWEN] == (
        "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:", ""
    )  # fmt: skip
    assert prompts[MINILM] == ("", "")


def test_every_entry_of_the_table_is_whole_and_no_name_leads_to_two():
    names = []
    for model in KNOWN_MODELS:
        assert model.source.startswith("https://")
        assert list(model.matryoshka) == sorted(model.matryoshka, reverse=True)
        assert all(0 < length < model.dim for length in model.matryoshka)
        assert 0 <= model.any_length_from < model.dim
        assert re.fullmatch(r"Apache-2\.0|LicenseRef-\w+", model.licence)
        assert all(alias == alias.lower() for alias in model.aliases)
        names += [model.name.lower(), *model.aliases]
        assert known(model.name) is model
    assert len(names) == len(set(names))


def test_nomics_copies_for_llama_cpp_read_fewer_tokens():
    assert known(NOMIC).max_tokens == 8192
    for name in (
        "nomic-embed-text",
        "nomic-ai/nomic-embed-text-v1.5-GGUF",
        "text-embedding-nomic-embed-text-v1.5",
    ):
        assert known(name).max_tokens == 2048, name


def test_a_length_that_a_matryoshka_model_was_not_trained_for_is_warned_of():
    [warning] = prefix_warnings(NOMIC, 768, 100, "model")
    assert warning == (
        f"index.prefix_dim is 100; the lengths that {NOMIC} was trained for are 512, 256, 128, 64. Set it to one of "
        "them, or index.order to 'corpus', in which any length will do."
    )
    [warning] = prefix_warnings(NOMIC, 768, 100, "auto")
    assert warning.endswith(" From 1000 rows on, a measurement decides which order your texts get.")
    [warning] = prefix_warnings(QWEN, 1024, 16, "model")
    assert "are 32 to 1024." in warning


@pytest.mark.parametrize(
    ("name", "dim", "prefix_dim", "order"),
    [
        (NOMIC, 768, 256, "model"),
        (NOMIC, 768, 768, "model"),  # nothing is cut off
        (NOMIC, 768, 100, "corpus"),
        (NOMIC, 512, 100, "model"),  # not the vectors that the table speaks of
        (QWEN, 1024, 33, "model"),
        ("text-embedding-3-small", 1536, 100, "model"),
        (MINILM, 384, 256, "auto"),  # measured from 1000 rows on
        (MINILM, 384, 256, "corpus"),
        ("org/unheard-of", 768, 100, "model"),
    ],
)
def test_nothing_is_said_where_nothing_is_wrong_or_known(name, dim, prefix_dim, order):
    assert prefix_warnings(name, dim, prefix_dim, order) == []


def test_a_model_that_is_not_matryoshka_is_warned_of_in_its_own_order():
    [warning] = prefix_warnings("bundled", 384, 64, "model")
    assert warning == (
        f"{MINILM} was not trained so that its first 64 of 384 dimensions say what all of them say, and index.order "
        "is 'model'. Set index.order to 'corpus' or 'auto'."
    )


def test_the_server_tells_its_warnings_at_start_and_in_info(serve, tmp_path):
    settings = {"index__order": "model", "index__prefix_dim": 64}
    with serve(tmp_path, **settings) as server:
        warnings = server.http.get("/info").json()["warnings"]
        assert server.stop() == 0
    assert warnings == prefix_warnings("bundled", 384, 64, "model") != []
    logged = [line["event"] for line in server.log if line["level"] == "warning"]
    assert logged == warnings


# --- fetching


@pytest.fixture
def published(tmp_path):
    """The files of a model as far as fetching looks at them."""
    folder = tmp_path / "published"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    (folder / "modules.json").write_text('[{"path": "1_Pooling"}]')
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 1200)
    (folder / "README.md").write_text("Read me.")
    (folder / "model.onnx").write_bytes(b"another runtime's")
    return folder


@pytest.fixture
def hub(published):
    with Hub("org/small", published) as server:
        yield server
        server.go_on.set()
        server.shutdown()


def ignore(done, total):
    pass


def home_of(models):
    return models / "models--org--small"


def test_a_pulled_model_has_the_sha256_of_every_file_beside_it(hub, published, tmp_path):
    progress = []
    pulled = pull("org/small", tmp_path / "models", lambda *far: progress.append(far), hub.endpoint)
    assert (pulled.was_here, pulled.mended) == (False, ())
    manifest = json.loads((home_of(tmp_path / "models") / MANIFEST_NAME).read_text())
    names = {"1_Pooling/config.json", "config.json", "model.safetensors", "modules.json", "tokenizer.json"}
    assert manifest == {
        "model": "org/small",
        "commit": hub.commit,
        "files": {
            name: {
                "bytes": (published / name).stat().st_size,
                "sha256": hashlib.sha256((published / name).read_bytes()).hexdigest(),
            }
            for name in names
        },
    }
    total = sum((published / name).stat().st_size for name in names)
    assert progress[-1] == (total, total)
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)


def test_a_model_that_is_here_and_whole_is_pulled_without_the_hub(hub, tmp_path):
    first = pull("org/small", tmp_path, ignore, hub.endpoint)
    hub.asked.clear()
    again = pull("org/small", tmp_path, ignore, hub.endpoint)
    assert hub.asked == []
    assert (again.manifest, again.was_here, again.mended) == (first.manifest, True, ())


def test_a_model_that_a_server_fetched_gets_its_manifest_by_a_pull(hub, tmp_path):
    pull("org/small", tmp_path, ignore, hub.endpoint)
    (home_of(tmp_path) / MANIFEST_NAME).unlink()
    assert look_up("org/small", tmp_path).present.where == Where.FETCHED
    pulled = pull("org/small", tmp_path, ignore, hub.endpoint)
    assert pulled.was_here
    assert look_up("org/small", tmp_path).present.where == Where.PULLED


def test_missing_and_changed_files_are_fetched_again(hub, published, tmp_path):
    pulled = pull("org/small", tmp_path, ignore, hub.endpoint)
    (pulled.folder.path / "model.safetensors").resolve().write_bytes(b"\0" * 256 * 1200)
    (pulled.folder.path / "modules.json").unlink()
    mended = pull("org/small", tmp_path, ignore, hub.endpoint)
    assert mended.mended == ("model.safetensors", "modules.json")
    for name in mended.mended:
        assert (mended.folder.path / name).read_bytes() == (published / name).read_bytes()
    assert pull("org/small", tmp_path, ignore, hub.endpoint).mended == ()


def test_a_hub_that_gives_another_file_than_before_is_refused(hub, published, tmp_path):
    pulled = pull("org/small", tmp_path, ignore, hub.endpoint)
    (pulled.folder.path / "config.json").resolve().write_text("{} ")
    (published / "config.json").write_text('{"altered": true}')
    with pytest.raises(
        ModelDamaged, match=r"config\.json of org/small is not the file that was fetched before"
    ) as no:
        pull("org/small", tmp_path, ignore, hub.endpoint)
    assert no.value.hint == f"If you trust what the hub gives now, delete {home_of(tmp_path)} and pull again."


def test_weights_that_were_altered_on_the_way_are_refused(hub, tmp_path):
    hub.alters = "model.safetensors"
    with pytest.raises(
        ModelDamaged, match=r"model\.safetensors of org/small doesn't have the SHA-256"
    ) as raised:
        pull("org/small", tmp_path, ignore, hub.endpoint)
    assert raised.value.hint.startswith("Something on the way alters files")
    assert not (home_of(tmp_path) / MANIFEST_NAME).exists()
    hub.alters = None
    assert pull("org/small", tmp_path, ignore, hub.endpoint).mended == ("model.safetensors",)


def test_a_model_without_weights_is_not_said_to_be_here(hub, published, tmp_path):
    (published / "model.safetensors").unlink()
    with pytest.raises(ModelDamaged, match="has no weights"):
        pull("org/small", tmp_path, ignore, hub.endpoint)
    assert look_up("org/small", tmp_path).present.where == Where.BEGUN


def test_ollamas_name_leads_to_the_hubs_and_the_list_says_what_is_here(hub, tmp_path):
    hub.repository = NOMIC
    pull("nomic-embed-text", tmp_path, ignore, hub.endpoint)
    here = {entry.name: entry.present.where for entry in all_entries(KNOWN_MODELS, tmp_path) if entry.present}
    assert here == {MINILM: Where.BUNDLED, NOMIC: Where.PULLED}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("bundled", "the bundled model comes with twopass; there is nothing to fetch"),
        ("text-embedding-3-small", "text-embedding-3-small runs at its maker's; there is nothing to fetch"),
        ("no/such/name", "there is no folder no/such/name, and it is no name of a model on the hub either"),
    ],
)
def test_what_can_not_be_pulled_is_said(tmp_path, name, why):
    with pytest.raises(ModelNotFound, match=re.escape(why)) as raised:
        pull(name, tmp_path, ignore, "http://127.0.0.1:9")
    assert raised.value.hint


def test_a_known_model_is_found_without_its_owner():
    assert repository_of("nomic-embed-text-v1.5") == NOMIC
    assert repository_of("snowflake-arctic-embed-m-v1.5") == ARCTIC
    assert repository_of("unheard-of") == "sentence-transformers/unheard-of"


def test_two_that_fetch_at_once_do_not_write_into_one_file(hub, published, tmp_path):
    (published / "model.safetensors").write_bytes(bytes(12_000_000))
    home_of(tmp_path).mkdir()
    with (
        DirectoryLock(home_of(tmp_path) / "fetching.lock"),
        pytest.raises(ModelNotFound, match=rf"another twopass \(process {os.getpid()}\) is using"),
    ):
        pull("org/small", tmp_path, ignore, hub.endpoint)
    assert (
        pull("org/small", tmp_path, ignore, hub.endpoint).manifest.files["model.safetensors"].bytes
        == 12_000_000
    )


# --- the command


def test_a_pull_that_is_interrupted_ends_at_once_and_goes_on_later(hub, published, tmp_path):
    (published / "model.safetensors").write_bytes(os.urandom(40_000_000))
    hub.stall_after = 24_000_000
    command = [sys.executable, "-m", "server.cli", "models", "pull", "org/small", "--data-dir", str(tmp_path)]
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert hub.stalled.wait(60)
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert stderr.endswith("\nInterrupted. What was fetched is kept; the same command goes on with it.\n")
    done = run("pull", "org/small", "--data-dir", tmp_path, "--json", HF_ENDPOINT=hub.endpoint)
    assert done.returncode == 0, done.stderr
    [resumed] = hub.ranges
    kept = int(re.fullmatch(r"bytes=(\d+)-", resumed)[1])
    assert kept >= 10_000_000
    pulled = json.loads(done.stdout)
    assert pulled["manifest"]["files"]["model.safetensors"] == {
        "bytes": 40_000_000,
        "sha256": hashlib.sha256((published / "model.safetensors").read_bytes()).hexdigest(),
    }


def test_pull_and_show_tell_people_what_they_need(hub, tmp_path):
    done = run("pull", "org/small", "--data-dir", tmp_path, HF_ENDPOINT=hub.endpoint)
    assert (done.returncode, done.stderr) == (0, "")
    first, second, third = done.stdout.splitlines()
    assert first == f"org/small is here: 5 files, 307 kB, commit {hub.commit[:12]}"
    assert second == f"  {home_of(tmp_path / 'models')}/snapshots/{hub.commit}"
    assert third == "To serve with it: TWOPASS_ENCODER__MODEL=org/small twopass serve"
    shown = run("show", "org/small", "--data-dir", tmp_path).stdout.splitlines()
    assert shown[:2] == ["org/small", "  twopass knows nothing of this model beyond what its files say."]
    assert shown[2].startswith("  here             pulled, 307 kB in ")
    digest = hashlib.sha256(bytes(range(256)) * 1200).hexdigest()[:16]
    assert f"    model.safetensors        307 kB  sha256 {digest}…" in shown


def test_without_a_network_a_pull_says_what_to_do(tmp_path, published):
    with Hub("org/small", published) as gone:
        gone.shutdown()  # nobody listens at its address any more
    done = run("pull", "org/small", "--data-dir", tmp_path, HF_ENDPOINT=gone.endpoint)
    assert (done.returncode, done.stdout) == (2, "")
    what, hint = done.stderr.splitlines()[-2:]
    assert what.startswith(
        f"twopass: the model org/small is not in {tmp_path / 'models'} and could not be fetched"
    )
    assert hint.startswith("Check the network and start again")


def test_list_has_every_known_model_on_a_line(tmp_path):
    done = twopass("models", "list", "--data-dir", tmp_path)
    assert (done.code, done.err) == (0, "")
    header, *lines = done.out.splitlines()
    assert header.split() == ["model", "dim", "shorter", "tokens", "MiB", "licence", "here"]
    assert lines[0].split() == ["all-MiniLM-L6-v2", "384", "-", "256", "163", "Apache-2.0", "bundled"]
    for model in KNOWN_MODELS:
        assert sum(line.startswith(f"{model.name.rpartition('/')[2]} ") for line in lines) == 1, model.name
    told = json.loads(twopass("models", "list", "--json", "--data-dir", tmp_path).out)
    assert [entry["name"] for entry in told] == [model.name for model in KNOWN_MODELS]
    assert told[0]["present"]["files"]["model.safetensors"] == 90_868_376


def test_an_export_is_listed_and_shown_with_its_cosines(tmp_path, bundled_export):
    (tmp_path / "models").symlink_to(bundled_export)
    done = twopass("models", "list", "--data-dir", tmp_path)
    assert done.out.splitlines()[1].split()[-2:] == ["bundled,", "onnx"]
    shown = twopass("models", "show", "bundled", "--data-dir", tmp_path).out.splitlines()
    found = re.fullmatch(
        r"  ONNX float32     (9\d) MB; cosine with torch's vectors (\d\.\d{6}) on average, (\d\.\d{6}) at least",
        shown[-1],
    )
    assert found, shown[-1]
    assert 0.9999 <= float(found[3]) <= float(found[2]) <= 1.000001


def test_show_tells_prompts_with_their_last_space(tmp_path):
    done = twopass("models", "show", "nomic-embed-text", "--data-dir", tmp_path)
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == NOMIC
    assert '  query prompt     "search_query: "' in lines
    assert "  shorter lengths  512, 256, 128, 64" in lines
    assert f"  here             no; `twopass models pull {NOMIC}` fetches it" in lines


def test_show_says_when_nothing_is_known(tmp_path):
    done = twopass("models", "show", "org/unheard-of", "--data-dir", tmp_path)
    assert (done.code, done.out) == (1, "")
    assert (
        done.err.splitlines()[0] == "twopass: nothing is known of a model org/unheard-of, and it isn't here"
    )


@pytest.mark.parametrize("command", ["list", "show", "pull", "certify"])
def test_the_help_of_every_command_has_an_example_and_its_exit_codes(command):
    done = twopass("models", command, "--help")
    assert done.code == 0
    assert f"twopass models {command}" in done.out.partition("Example")[2]
    assert "\n  Exit code: 0" in done.out
