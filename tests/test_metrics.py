"""What /metrics counts, against what was really asked; and that the page and the dashboard name what is there."""

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import clustered, serving, until
from prometheus_client.parser import text_string_to_metric_families

from server.app import open_collection
from server.encoders.batching import EncodingQueue, JobLine
from server.encoders.fingerprint import Role
from server.errors import ANSWERS
from server.metrics import STAGES, Metrics
from server.processes import Resident, _resident, process_memory
from server.settings import EncoderSettings, Settings

ROOT = Path(__file__).parent.parent
DASHBOARD = ROOT / "docker/grafana/dashboards/twopass.json"
N, DIM = 300, 32


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    settings = {"encoder__model": "none", "encoder__dim": DIM, "index__gauge_share": 0}
    with serving(tmp_path_factory.mktemp("metrics"), **settings) as server:
        vectors = clustered(N, DIM, seed=51)
        documents = [{"id": f"{n}", "vector": each.tolist()} for n, each in enumerate(vectors)]
        assert server.http.post("/documents", json={"documents": documents}).status_code == 201
        yield server
        assert server.stop() == 0


def samples(server):
    """Every sample of /metrics as {(name, value of each label in their alphabetical order): value}."""
    answer = server.http.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return read(answer.text)


def read(text):
    return {
        (each.name, *(each.labels[label] for label in sorted(each.labels))): each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
    }


class Grown:
    """What was added to each sample since it was made."""

    def __init__(self, server):
        self.server, self.before = server, samples(server)

    def __call__(self):
        after = samples(self.server)
        return {key: value - self.before.get(key, 0) for key, value in after.items()}


def search(server, **body):
    answer = server.http.post("/search", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_search_is_counted_with_the_stages_that_it_needed_and_their_times(server):
    grown = Grown(server)
    vector = clustered(1, DIM, seed=52)[0].tolist()
    answers = [search(server, vector=vector, k=5), search(server, vector=vector, k=7, filter={"a": 1})]
    answers += [search(server, vector=vector, mode="prefix"), search(server, vector=vector, mode="exact")]
    found = grown()
    stage = "twopass_search_stage_seconds_count"
    counts = {name: found[stage, name] for name in STAGES}
    # One filter; no first pass in mode exact nor over the few rows of a filter, no second in mode prefix.
    timed = [answer["timings_ms"] for answer in answers]
    assert counts == {
        "encode": 0, "filter": 1, "words": 0, "fetch": 4,
        "first_pass": sum(each["first_pass"] > 0 for each in timed),
        "second_pass": sum(each["second_pass"] > 0 for each in timed),
    }  # fmt: skip
    assert counts["first_pass"] >= 2 and counts["second_pass"] >= 2
    for name in ("first_pass", "second_pass", "fetch"):
        told = sum(each[name] for each in timed) / 1000
        assert found["twopass_search_stage_seconds_sum", name] == pytest.approx(told, abs=2e-5)
    assert found["twopass_search_hits_count",] == 4
    assert found["twopass_search_hits_sum",] == sum(len(each["hits"]) for each in answers) == 5 + 0 + 10 + 10
    assert found["twopass_search_candidates_sum",] == sum(each["candidates"] for each in answers)
    assert found["twopass_rows_read_total",] == 80 + 0 + 0 + N


def test_every_search_of_a_batch_counts(server):
    grown = Grown(server)
    vectors = clustered(3, DIM, seed=53)
    searches = [{"vector": vector.tolist(), "k": 4} for vector in vectors]
    server.http.post("/search/batch", json={"searches": searches}).raise_for_status()
    found = grown()
    assert (found["twopass_search_hits_count",], found["twopass_search_hits_sum",]) == (3, 12)
    assert found["twopass_search_stage_seconds_count", "first_pass"] == 3
    assert found["twopass_request_seconds_count", "POST", "/search/batch", "200"] == 1


def test_requests_are_counted_by_template_and_status_and_errors_by_code(server):
    grown = Grown(server)
    for path in ("/documents/7", "/documents/8", "/documents/gone", "/nowhere", "/nowhere/else"):
        server.http.get(path)
    server.http.post("/search", json={"vector": [1.0]})
    server.http.post("/search", json={"vektor": [1.0]})
    server.http.request("BREW", "/coffee")
    found = {key: n for key, n in grown().items() if n and key[0].endswith(("seconds_count", "errors_total"))}
    requests = {key[1:]: n for key, n in found.items() if key[0] == "twopass_request_seconds_count"}
    requests.pop(("GET", "/metrics", "200"))
    # The HTTP parser itself turns a method away that it doesn't know.
    assert {each for each in requests if each[0] not in ("GET", "POST")} <= {("other", "none", "404")}
    assert {key: n for key, n in requests.items() if key[0] in ("GET", "POST")} == {
        ("GET", "/documents/{id:path}", "200"): 2,
        ("GET", "/documents/{id:path}", "404"): 1,
        ("GET", "none", "404"): 2,
        ("POST", "/search", "422"): 2,
    }
    errors = {key[1]: n for key, n in found.items() if key[0] == "twopass_errors_total"}
    assert errors.pop("unknown_path") + errors.pop("not_http", 0) == 3
    assert errors == {"not_found": 1, "invalid_vector": 1, "unknown_field": 1}


def test_every_code_of_an_error_is_there_from_the_start(server):
    """Prometheus doesn't see a series grow that begins with its first error."""
    codes = {key[1] for key in read(Metrics().told().decode()) if key[0] == "twopass_errors_total"}
    assert codes == {answer.code for answer in ANSWERS.values()}
    assert samples(server)["twopass_errors_total", "disk_full"] == 0


def test_the_words_of_a_hybrid_search_are_a_stage_of_their_own(texts):
    grown = Grown(texts)
    answers = [search(texts, query="how much room does it take", hybrid=hybrid) for hybrid in (True, False)]
    found = grown()
    assert found["twopass_search_stage_seconds_count", "words"] == 1
    told = answers[0]["timings_ms"]["words"] / 1000
    assert found["twopass_search_stage_seconds_sum", "words"] == pytest.approx(told, abs=2e-6)


def test_gauges_tell_what_stats_tells(server):
    new = clustered(2, DIM, seed=54)
    documents = [{"id": f"new {n}", "vector": each.tolist()} for n, each in enumerate(new)]
    server.http.post("/documents", json={"documents": documents}).raise_for_status()
    server.http.delete("/documents/new 1").raise_for_status()
    stats, found = server.http.get("/stats").json(), samples(server)
    assert found["twopass_documents",] == stats["documents"] == N + 1
    assert (found["twopass_rows",], found["twopass_tombstones",]) == (N + 2, 1)
    assert found["twopass_first_pass_bytes",] == stats["first_pass"]["bytes"] > 0
    assert found["twopass_disk_bytes", "vectors"] == (N + 2) * DIM * 2
    assert found["twopass_disk_bytes", "catalog"] > 10_000
    kinds = {key[1] for key in found if key[0] == "twopass_disk_bytes"}
    assert kinds == {"vectors", "first_pass", "catalog", "other"}
    assert found["twopass_disk_bytes", "other"] == 0
    assert found["twopass_disk_free_bytes",] > 1_000_000
    assert found["twopass_jobs", "waiting"] == found["twopass_encoder_queue_batches",] == 0
    assert [key for key in found if key[0] == "twopass_recall"] == []  # nothing was measured


def test_jobs_are_counted_by_state(server):
    grown = Grown(server)
    line = json.dumps({"id": "later", "vector": clustered(1, DIM, seed=55)[0].tolist()})
    headers = {"content-type": "application/x-ndjson"}
    job = server.http.post("/documents?wait=false", content=line, headers=headers).json()["job"]
    with server.http.stream("GET", f"/jobs/{job['id']}/events") as events:
        for _ in events.iter_lines():
            pass
    found = grown()
    assert (found["twopass_jobs", "done"], found["twopass_jobs", "failed"]) == (1, 0)


def test_memory_is_that_of_the_server_with_its_model(texts):
    search(texts, query="how much room does it take")
    found = samples(texts)
    mib = 1 << 20
    status = Path(f"/proc/{texts.process.pid}/status").read_text()
    anonymous = int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024
    assert found["twopass_process_memory_bytes", "anonymous", "server"] == pytest.approx(
        anonymous, abs=16 * mib
    )
    assert ("twopass_process_memory_bytes", "anonymous", "encoder") not in found
    assert found["process_open_fds",] > 10
    assert found["twopass_search_stage_seconds_count", "encode"] >= 1
    assert {key[1] for key in found if key[0] == "twopass_info"} == {"bundled"}


def test_memory_of_a_model_beside_the_server_is_told_apart(tmp_path, serve):
    with serve(tmp_path, encoder__idle_unload_s=3600) as server:
        assert samples(server)["twopass_process_memory_bytes", "anonymous", "encoder"] > 20 << 20
        assert server.stop() == 0


def test_a_child_that_ends_while_it_is_looked_at_is_passed_over():
    code = "print('there', flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"there\n"  # and as large as it gets
    before = process_memory()["other"]
    assert before.file_bytes > 0
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie: there, but without memory
    with pytest.raises(KeyError):
        _resident(Path(f"/proc/{child.pid}"))
    assert process_memory().get("other", Resident(0, 0)).file_bytes < before.file_bytes
    child.communicate()


def test_recall_is_told_where_it_was_measured(tmp_path_factory):
    """The gauge looks at one search in one; its own figures come with /stats."""
    settings = {"encoder__model": "none", "encoder__dim": DIM, "index__gauge_share": 1}
    with serving(tmp_path_factory.mktemp("recall"), **settings) as server:
        vectors = clustered(50, DIM, seed=56)
        documents = [{"id": f"{n}", "vector": each.tolist()} for n, each in enumerate(vectors)]
        server.http.post("/documents", json={"documents": documents}).raise_for_status()
        search(server, vector=vectors[0].tolist())
        found = until(lambda: samples(server), lambda found: found["twopass_recall_searches",])
        server.stop()
    assert (found["twopass_recall", "pool"], found["twopass_recall", "final"]) == (1, 1)
    assert 0 < found["twopass_recall_low", "final"] < found["twopass_recall_high", "final"] == 1


def test_batches_that_wait_for_the_model_are_counted():
    begun, go_on = threading.Event(), threading.Event()

    def embed(inputs, role):
        begun.set()
        go_on.wait()
        return np.ones((len(inputs), 2), np.float32)

    queue = EncodingQueue(embed, JobLine(batch_tokens=8))
    done = [queue.submit(["text"], 1, Role.DOCUMENT)]
    begun.wait()
    done += [queue.submit(["text"], 1, Role.DOCUMENT) for _ in range(3)]
    assert queue.n_waiting == 3
    go_on.set()
    for each in done:
        each.result()
    queue.close()
    assert queue.n_waiting == 0


def test_two_apps_count_for_themselves(tmp_path):
    with open_collection(
        Settings(data_dir=tmp_path, encoder=EncoderSettings(model="none", dim=4))
    ) as collection:
        first, second = Metrics(), Metrics()
        for each in (first, second):
            each.watch(collection)
        first.answered("GET", "/info", 200, 0.001, None)
        key = ("twopass_request_seconds_count", "GET", "/info", "200")
        assert (read(first.told().decode())[key], key in read(second.told().decode())) == (1, False)


# The page and the dashboard


@pytest.fixture(scope="module")
def families(server):
    """(name, type) and label names of everything in /metrics, once everything has been counted at least once."""
    search(server, vector=clustered(1, DIM, seed=57)[0].tolist())
    server.http.get("/nowhere")
    found = text_string_to_metric_families(server.http.get("/metrics").text)
    return [each for each in found if not each.name.endswith("_created")]


def test_the_page_lists_what_is_there_with_its_type_and_labels(families):
    page = (ROOT / "docs/operating.md").read_text()
    rows = re.findall(r"^\| `((?:twopass|process)_\w+)` \| (\w+) \|([^|]*)\|", page, re.MULTILINE)
    written = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    there = {}
    for family in families:
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        there[name] = (family.type, labels)
    for name in (
        "twopass_recall",
        "twopass_recall_low",
        "twopass_recall_high",
    ):  # without a measurement, no labels
        assert there[name] == ("gauge", set())
        there[name] = ("gauge", {"of"})
    assert {name: each for name, each in written.items() if name.startswith("twopass_")} == {
        name: each for name, each in there.items() if name.startswith("twopass_")
    }
    assert set(written) - set(there) == set()


def expressions():
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"], target["legendFormat"]


def test_every_expression_of_the_dashboard_asks_for_series_and_labels_that_are_there(families):
    labels_of = {}
    for family in families:
        labels_of.setdefault(family.name, set())
        for sample in family.samples:
            labels_of.setdefault(sample.name, set()).update(sample.labels)
    for suffix in ("", "_low", "_high"):
        labels_of[f"twopass_recall{suffix}"] = {"of"}
    wrong = []
    for title, expression, legend in expressions():
        names = set(re.findall(r"\b(?:twopass|process)_\w+", expression))
        assert names, title
        labels = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"", expression))
        for listed in re.findall(r"\bby \(([^)]*)\)", expression):
            labels |= {each.strip() for each in listed.split(",")}
        labels |= set(re.findall(r"{{(\w+)}}", legend))
        known = set().union(*(labels_of.get(name, set()) for name in names))
        wrong += [(title, name) for name in names if name not in labels_of]
        wrong += [(title, label) for label in labels - known]
    assert wrong == []


def test_the_dashboard_shows_everything_that_is_counted(families):
    shown = " ".join(expression for _, expression, _ in expressions())
    left_out = {"twopass_info", "twopass_recall_searches"}
    assert [
        family.name
        for family in families
        if family.name.startswith("twopass_") and family.name not in left_out
        if not re.search(rf"\b{family.name}(_total|_count|_sum|_bucket)?\b", shown)
    ] == []
