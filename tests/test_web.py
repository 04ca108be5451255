"""The files of the pages over HTTP, and what they ask for: no browser is needed."""

import socket

import httpx
from conftest import serving


def test_pages_are_served_with_a_strict_policy_and_an_etag(brought):
    for path in ("/", "/web/app.js", "/docs"):
        answer = brought.http.get(path)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = brought.http.get(path, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    for path in ("/web/nothing.js", "/web/../app.py", "/web/%2e%2e/app.py", "/web"):
        answer = brought.http.get(path, follow_redirects=True)
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_path"), path


def test_with_a_key_set_pages_are_open_and_what_they_show_is_not(tmp_path):
    with serving(tmp_path, encoder__model="none", encoder__dim=8, server__api_key="secret") as server:
        opened = {path: httpx.get(f"{server.url}{path}", trust_env=False).status_code for path in (
            "/", "/web/app.js", "/docs", "/docs/swagger-ui.css", "/openapi.json",
            "/stats", "/metadata/fields", "/jobs", "/documents", "/web",
        )}  # fmt: skip
        assert [path for path, status in opened.items() if status == 401] == [
            "/stats", "/metadata/fields", "/jobs", "/documents", "/web",
        ]  # fmt: skip
        assert set(opened.values()) == {200, 401}
        with socket.create_connection(("127.0.0.1", server.http.base_url.port)) as raw:
            raw.sendall(b"GET /docs/../stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert raw.makefile("rb").readline() == b"HTTP/1.1 404 Not Found\r\n"
        server.stop()


def test_fields_are_told_with_types_frequent_values_and_ranges(tmp_path):
    with serving(tmp_path, encoder__model="none", encoder__dim=8) as server:
        assert server.http.get("/metadata/fields").json() == {"sampled": 0, "fields": []}
        metadata = [
            {"year": 2020, "tags": ["tax", "law"], "author": {"name": "Ada"}},
            {"year": 2024.5, "tags": ["tax"], "written": "2024-05-01"},
            {"mixed": 1, "written": "2023-01-01T10:00", "a.b": True},
            {"mixed": "one", "long": "x" * 101, "nothing": None},
        ]
        documents = [{"id": str(n), "vector": [1.0] * 8, "metadata": each} for n, each in enumerate(metadata)]
        server.http.post("/documents", json={"documents": documents}).raise_for_status()
        told = server.http.get("/metadata/fields").json()
        assert told["sampled"] == 4
        fields = {field.pop("path"): field for field in told["fields"]}
        assert [*fields] == ["mixed", "tags", "written", "year", "a\\.b", "author.name", "long"]
        assert fields["tags"] == {
            "types": ["text"], "documents": 2, "range": None,
            "values": [{"value": "tax", "documents": 2}, {"value": "law", "documents": 1}],
        }  # fmt: skip
        assert fields["year"]["types"] == ["number"] and fields["year"]["range"] == [2020, 2024.5]
        assert fields["written"]["range"] == ["2023-01-01T10:00", "2024-05-01"]
        assert fields["mixed"]["types"] == ["number", "text"] and fields["mixed"]["range"] is None
        assert fields["a\\.b"]["values"] == [{"value": True, "documents": 1}]
        assert fields["long"]["values"] == []
        # Each path is what a filter takes.
        for path in fields:
            wanted = {"vector": [1.0] * 8, "filter": {path: {"$exists": True}}}
            hits = server.http.post("/search", json=wanted).json()["hits"]
            assert len(hits) == fields[path]["documents"], path
        server.stop()


def test_a_passage_is_sent_without_the_rest_of_its_text(brought):
    vector = [1.0] + [0.0] * 31
    document = {"id": "passage alone", "text": "a long text", "vector": vector}
    brought.http.post("/documents", json={"documents": [document]}).raise_for_status()
    wanted = {"vector": vector, "filter": {"$id": "passage alone"}}
    for include, text, passage in (
        (["passage"], None, "a long text"),
        (["text"], "a long text", "a long text"),
        ([], None, None),
    ):
        (hit,) = brought.http.post("/search", json={**wanted, "include": include}).json()["hits"]
        assert (hit.get("text"), hit["passage"]["text"]) == (text, passage)
