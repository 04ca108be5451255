"""The short way through HTTP: vectors as base64, handlers called straight, threads of our own."""

import asyncio
import base64
import inspect
import json
import re
import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi import Depends, Request, Response
from pydantic import TypeAdapter

from server.api import documents, schemas, search, status
from server.api.answers import answer
from server.api.requests import Body
from server.api.routes import Route
from server.api.threads import INBOX_THREADS, Running, Service, Threads
from server.api.vectors import Vector
from server.errors import BusyError, TooLargeError
from server.settings import LimitSettings

ROOT = Path(__file__).parent.parent


def packed(vector):
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


def test_a_vector_in_base64_is_the_vector_in_numbers():
    vector = np.random.default_rng(1).standard_normal(768).astype(np.float32)
    read = TypeAdapter(Vector, config={"arbitrary_types_allowed": True}).validate_json
    for text in (json.dumps(vector.tolist()), json.dumps(packed(vector))):
        found = read(text)
        assert found.dtype == np.float32 and found.flags.writeable
        np.testing.assert_array_equal(found, vector)
    np.testing.assert_array_equal(read("[1, -2.5, 1e300, -1e39]"), [1, -2.5, np.inf, -np.inf])


@pytest.mark.parametrize("media_type", ["application/json", "application/x-ndjson"])
def test_documents_and_searches_take_base64(brought, make_vectors, media_type):
    vectors = make_vectors(3, 32, seed=31)
    name = media_type[-6:]
    numbers = [{"id": f"{name}-{i}", "vector": vector.tolist()} for i, vector in enumerate(vectors)]
    stored = [{**each, "vector": packed(each["vector"])} for each in numbers]

    def send(batch):
        lines = "\n".join(json.dumps(each) for each in batch)
        body = lines if "ndjson" in media_type else json.dumps({"documents": batch})
        answer = brought.http.post("/documents", content=body, headers={"content-type": media_type})
        assert answer.status_code == 201, answer.text
        return answer.json()

    assert send(stored)["created"] == 3
    assert send(numbers)["unchanged"] == 3  # bit by bit the same
    searches = [{"vector": vector.tolist(), "k": 1, "include": ["vector"]} for vector in vectors]
    in_base64 = [{**each, "vector": packed(each["vector"])} for each in searches]
    for one, other in zip(searches, in_base64, strict=True):
        hits = [brought.http.post("/search", json=each).json()["hits"] for each in (one, other)]
        assert hits[0] == hits[1] and isinstance(hits[0][0]["vector"], list)
    batches = [
        [result["hits"] for result in brought.http.post("/search/batch", json={"searches": each}).json()["results"]]
        for each in (searches, in_base64)
    ]  # fmt: skip
    assert batches[0] == batches[1]
    brought.http.post("/documents/delete", json={"ids": [each["id"] for each in numbers]})


@pytest.mark.parametrize("include", [["text", "metadata"], [], ["text"], ["vector", "explain", "metadata"]])
@pytest.mark.parametrize("mode", ["two_pass", "exact"])
def test_an_answer_is_what_its_model_says(brought, make_vectors, include, mode):
    """The handlers build dicts; nothing but this holds them to the models that OpenAPI shows."""
    vectors = make_vectors(4, 32, seed=32)
    made = [
        {"id": f"model-{i}", "vector": vector.tolist(), "metadata": {"n": i}}
        for i, vector in enumerate(vectors)
    ]
    made[0]["text"] = "some text"
    brought.http.post("/documents", json={"documents": made}).raise_for_status()
    body = {"vector": vectors[0].tolist(), "include": include, "mode": mode}
    alone = brought.http.post("/search", json=body).json()
    batch = brought.http.post("/search/batch", json={"searches": [body]}).json()
    for model, found in ((schemas.SearchOut, alone), (schemas.SearchesOut, batch)):
        read = model.model_validate_json(json.dumps(found), strict=True)
        assert read.model_dump(exclude_unset=True) == found  # no field that the model doesn't have
    (hit,) = (hit for hit in alone["hits"] if hit["id"] == "model-0")
    always = {"id", "score", "passage"}
    assert set(hit) == always | set(include)
    assert ("explain" in alone) is ("explain" in include)
    brought.http.post("/documents/delete", json={"ids": [each["id"] for each in made]})


def test_numbers_of_numpy_are_answered_as_numbers():
    content = {"certified": np.bool_(True), "score": np.float32(0.5), "rows": [np.int64(3)]}
    assert json.loads(answer(content).body) == {"certified": True, "score": 0.5, "rows": [3]}
    with pytest.raises(ValueError, match="object has no place in JSON"):
        answer({"what": object()})


def test_openapi_describes_bodies_and_answers(brought):
    openapi = brought.http.get("/openapi.json").json()

    def refs(part):
        if isinstance(part, dict):
            yield from ([part["$ref"]] if "$ref" in part else [])
            part = list(part.values())
        if isinstance(part, list):
            for each in part:
                yield from refs(each)

    named = {ref.removeprefix("#/components/schemas/") for ref in refs(openapi)}
    models = openapi["components"]["schemas"]
    assert named <= set(models)
    assert {"SearchIn", "SearchesIn", "DocumentsIn", "IdsIn", "SearchOut", "SearchesOut", "PageOut"} <= named
    for model in ("SearchIn", "DocumentIn"):
        kinds = [each.get("type") for each in models[model]["properties"]["vector"]["anyOf"]]
        assert kinds == ["array", "string", "null"]
    answered = openapi["paths"]["/search"]["post"]["responses"]["200"]["content"]["application/json"]
    assert answered["schema"]["$ref"].endswith("/SearchOut")


def test_json_by_another_name_is_read_too(brought):
    headers = {"content-type": "Application/vnd.mine+JSON; charset=utf-8"}
    answer = brought.http.post("/search", content=json.dumps({"vector": packed([1.0] * 32)}), headers=headers)
    assert answer.status_code == 200


def test_no_handler_lets_fastapi_validate_its_answer():
    for module in (documents, search, status):
        for route in module.router.routes:
            assert inspect.signature(route.endpoint).return_annotation is Response, route.path


def test_handlers_that_need_the_request_alone_are_called_straight():
    straight = {
        route.path
        for module in (documents, search, status)
        for route in module.router.routes
        if route._needs_only_the_request() and "POST" in route.methods
    }
    assert straight == {"/documents", "/documents/compare", "/documents/delete", "/search", "/search/batch"}


def test_a_route_with_more_to_check_is_not_called_straight():
    async def guard(request: Request) -> None:
        raise AssertionError

    def in_a_thread(request: Request) -> int:
        return 1

    async def nothing() -> Response: ...

    async def one(service: Service) -> Response: ...

    async def parameter(service: Service, limit: int) -> Response: ...

    async def blocking(value: int = Depends(in_a_thread)) -> Response: ...

    def route(endpoint, **more):
        return Route("/", endpoint, response_model=None, **more)._needs_only_the_request()

    assert route(nothing) and route(one)
    assert not route(parameter) and not route(blocking)
    assert not route(nothing, dependencies=[Depends(guard)])


def test_telemetry_stays_off_whatever_the_environment_says(tmp_path, serve, monkeypatch):
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with serve(tmp_path, encoder__model="none", encoder__dim=8) as server:
        assert server.http.get("/livez").status_code == 200
        server.stop()
        assert server.other == []  # where FastAPI would say that it tried


def test_a_client_that_hangs_up_is_no_error_of_ours(tmp_path, serve):
    with serve(tmp_path, encoder__model="none", encoder__dim=8) as server:
        host, port = server.url.removeprefix("http://").split(":")
        for path in ("/search", "/documents"):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(
                    f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                    'Content-Length: 1000\r\n\r\n{"vector": ['.encode()
                )
            assert server.http.get("/livez").status_code == 200
        server.stop()
        assert [line["status"] for line in server.log if line["event"] == "request"] == [499, 499]
        assert {line["level"] for line in server.log} == {"info"}


def test_a_body_is_counted_where_its_header_can_not_be_trusted():
    def receive_of(headers):
        pieces = iter([b"12345", b"67890", b"x"])

        async def receive():
            return {"type": "http.request", "body": next(pieces), "more_body": True}

        return Body(receive, headers, LimitSettings.model_construct(body_bytes=10, silence_s=60))

    async def read(body):
        while True:
            await body.receive()

    for headers in ({}, {b"content-length": b"5", b"transfer-encoding": b"chunked"}):
        body = receive_of(headers)
        body.check_size()
        with pytest.raises(TooLargeError, match="the body has 11 bytes or more; the limit is 10"):
            asyncio.run(read(body))
    with pytest.raises(TooLargeError, match="12 bytes"):
        receive_of({b"content-length": b"12"}).check_size()


def run_threads(limit, use, most_waiting=100):
    async def main():
        threads = Threads(limit, "test", most_waiting)
        try:
            return await asyncio.wait_for(use(threads), 20)
        finally:
            threads.close()

    return asyncio.run(main())


def test_a_thread_gives_back_results_and_errors():
    async def use(threads):
        assert await threads.run(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 / 0)
        return await threads.run(threading.get_ident)

    assert run_threads(2, use) != threading.get_ident()


def test_of_several_threads_the_last_one_free_is_asked_first():
    together = threading.Barrier(3)

    async def use(threads):
        await asyncio.gather(*(threads.run(lambda: together.wait(10)) for _ in range(3)))
        return {await threads.run(threading.get_ident) for _ in range(20)}

    assert len(run_threads(3, use)) == 1


def test_more_calls_than_threads_wait_their_turn():
    together = threading.Barrier(3)

    async def use(threads):
        calls = [lambda: (together.wait(10), threading.get_ident())[1] for _ in range(9)]
        return await asyncio.gather(*map(threads.run, calls))

    assert len(set(run_threads(3, use))) == 3


def test_a_call_for_which_there_is_no_place_to_wait_is_refused_and_the_others_are_not():
    go_on = threading.Event()

    async def use(threads):
        waiting = [asyncio.ensure_future(threads.run(lambda: go_on.wait(10))) for _ in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="as many searches are waiting for their turn as may: 3"):
            await threads.run(lambda: None)
        go_on.set()
        assert await asyncio.gather(*waiting) == [True] * 5
        return await threads.run(lambda: "there is room again")

    assert run_threads(2, use, most_waiting=3) == "there is room again"


def test_who_stops_waiting_takes_no_thread_away():
    go_on = threading.Event()

    async def use(threads):
        waiting = [asyncio.ensure_future(threads.run(lambda: go_on.wait(10))) for _ in range(3)]
        await asyncio.sleep(0)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        go_on.set()
        return await threads.run(lambda: "still there")

    assert run_threads(1, use) == "still there"


def test_closing_waits_for_what_was_begun():
    started, done = threading.Event(), []

    def call():
        started.set()
        threading.Event().wait(0.05)
        done.append(True)

    async def use(threads):
        waiting = asyncio.ensure_future(threads.run(call))
        await asyncio.sleep(0)
        started.wait(10)
        waiting.cancel()

    run_threads(1, use)
    assert done == [True]


def test_a_stream_that_a_busy_server_refuses_in_its_middle_is_taken_back():
    done, go_on = [], threading.Event()

    class Receiving:
        def add(self, piece):
            done.append(piece)

        def drop(self):
            done.append("dropped")

    async def main():
        limits = SimpleNamespace(waiting_requests=0)
        service = Running(SimpleNamespace(receive=Receiving), SimpleNamespace(limits=limits), None)

        async def pieces():
            yield "a first piece"
            others = [asyncio.ensure_future(service.accept(go_on.wait, 60)) for _ in range(INBOX_THREADS)]
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_soon(go_on.set)  # behind the refusal, which comes at once
            yield "one that comes when all are busy"
            await asyncio.gather(*others)

        with pytest.raises(BusyError, match="as many writes"):
            await documents.receive(service, [], pieces())

    asyncio.run(main())
    assert done == ["a first piece", "dropped"]


def test_the_lines_on_the_page_make_base64(capsys):
    page = (ROOT / "docs/http.md").read_text()
    (lines,) = re.findall(r"^```python\n(.+?)^```$", page, re.DOTALL | re.MULTILINE)
    exec(lines, {})
    assert f"prints `{capsys.readouterr().out.strip()}`" in page
