"""Who is let in: two keys, where they come from, which right each route needs, and what pages of other sites may do."""

import asyncio
import json
import os
import re
import stat
from types import SimpleNamespace

import httpx
import pytest
from conftest import called, serving
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from server.api.requests import Requests, key_in
from server.api.rights import Rights, for_anyone, for_readers
from server.api.sites import Sites
from server.api.traffic import Traffic
from server.app import create_app
from server.auth import Keys, Right, hash_of
from server.errors import BusyError, ReadOnlyKeyError, StartupError, UnauthorizedError
from server.keys import HASH_NAME, make_key, open_keys, stored_hash
from server.memory import Room
from server.metrics import Metrics
from server.settings import LimitSettings, Settings, SettingsError, load_settings

UNUSED = SimpleNamespace(on_search=lambda heard: None)  # a collection that nobody asks anything
NO_MODEL = {"encoder__model": "none", "encoder__dim": 8}

OPEN = {
    ("GET", "/livez"), ("GET", "/readyz"), ("GET", "/health"), ("GET", "/openapi.json"), ("GET", "/"), ("HEAD", "/"),
    ("GET", "/docs"), ("HEAD", "/docs"), ("GET", "/web/{file}"), ("GET", "/docs/{file}"),
}  # fmt: skip

FOR_READERS = {
    ("POST", "/search"), ("POST", "/search/batch"), ("GET", "/documents"), ("GET", "/documents/{id:path}"),
    ("POST", "/v1/embeddings"), ("GET", "/v1/models"), ("GET", "/v1/models/{model:path}"), ("GET", "/jobs"),
    ("GET", "/jobs/{id}"), ("GET", "/jobs/{id}/events"), ("GET", "/index/generations"), ("GET", "/stats"),
    ("GET", "/stats/recall"), ("GET", "/info"), ("GET", "/doctor"), ("GET", "/metadata/indexes"),
    ("GET", "/metadata/fields"), ("GET", "/metrics"), ("POST", "/documents/compare"),
}  # fmt: skip


def routes_of(app):
    """Method and path of every route; of a mounted app those of a file in it."""
    found = set()
    for route in iter_route_contexts(app.routes):
        if route.methods is None:
            found.add(("GET", f"{route.path}/{{file}}"))
        else:
            found |= {(method, route.path) for method in route.methods}
    return found


def bearer(key):
    return {"authorization": f"Bearer {key}"}


# What a key allows


def test_the_admins_key_may_do_all_the_readers_key_may_read_and_another_nothing():
    keys = Keys(hash_of("all"), hash_of("some"))
    assert [keys.held(each) for each in (b"all", b"some", b"other", b"")] == [
        Right.ADMIN, Right.READ, Right.NONE, Right.NONE,
    ]  # fmt: skip
    assert Keys(hash_of("all")).held(b"some") is Right.NONE
    assert Keys().held(b"") is Right.ADMIN  # no key is set


def test_no_hash_is_compared_less_because_another_fits(monkeypatch):
    compared = []
    monkeypatch.setattr("hmac.compare_digest", lambda one, other: compared.append(other) or one == other)
    keys = Keys(hash_of("all"), hash_of("some"))
    for given in (b"all", b"some", b"neither"):
        keys.held(given)
    assert compared == [hash_of("all"), hash_of("some")] * 3


def test_a_refusal_says_whether_a_key_is_missing_wrong_or_only_for_reading():
    keys = Keys(hash_of("all"), hash_of("some"))
    keys.check(None, Right.NONE)
    keys.check(b"some", Right.READ)
    keys.check(b"all", Right.ADMIN)
    with pytest.raises(UnauthorizedError, match="none was sent"):
        keys.check(None, Right.READ)
    with pytest.raises(UnauthorizedError, match="the key is wrong"):
        keys.check(b"", Right.READ)
    with pytest.raises(ReadOnlyKeyError, match="may only read"):
        keys.check(b"some", Right.ADMIN)


def test_a_key_is_found_in_either_header_and_no_password_of_a_proxy_is_taken_for_one():
    assert key_in({}) is None
    assert key_in({b"authorization": b"bearer  k "}) == b"k"
    assert key_in({b"authorization": b"Basic dXNlcjpwYXNz", b"api-key": b"k"}) == b"k"
    assert key_in({b"authorization": b"Basic k"}) == b"" == key_in({b"authorization": b"k"})


def test_keys_are_in_no_repr():
    assert repr(Keys(hash_of("all"), hash_of("some"))) == "Keys()"


# What a route needs


@pytest.fixture(scope="module")
def app():
    return create_app(Settings(), UNUSED, Keys())


def test_every_route_is_for_the_admin_but_those_listed_here(app):
    """A new route that readers or anybody may call has to be written down here too."""
    rights = Rights(app.routes)
    found = {
        right: {
            (method, path) for method, path in routes_of(app)
            if rights.needed(method, path.replace("{id:path}", "x").replace("{", "").replace("}", "")) is right
        }
        for right in Right
    }  # fmt: skip
    assert found[Right.NONE] == OPEN
    assert found[Right.READ] == FOR_READERS
    assert found[Right.ADMIN] == routes_of(app) - OPEN - FOR_READERS
    assert {("POST", "/documents"), ("DELETE", "/documents/{id:path}")} <= found[Right.ADMIN]


def test_a_route_that_says_nothing_needs_the_admins_key_and_a_mounted_app_too():
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/forgotten")
    async def forgotten(): ...

    @app.get("/things/{name}")
    @for_readers
    async def thing(name: str): ...

    @app.get("/things/hidden")  # the route above answers this
    @for_anyone
    async def hidden(): ...

    async def files(scope, receive, send): ...

    app.mount("/files", files)
    app.mount("/pages", for_anyone(lambda scope, receive, send: None))
    rights = Rights(app.routes)
    assert rights.needed("GET", "/forgotten") is Right.ADMIN
    assert rights.needed("GET", "/things/hidden") is Right.READ
    assert rights.needed("GET", "/files/x") is Right.ADMIN
    assert rights.needed("GET", "/pages/x") is Right.NONE
    assert rights.needed("GET", "/nothing") is Right.READ  # told to those with a key that it isn't there
    assert rights.needed("PUT", "/forgotten") is Right.READ


@pytest.mark.parametrize("open_metrics", [False, True])
def test_openapi_says_which_operations_ask_for_a_key(app, open_metrics):
    settings = Settings.model_validate({"server": {"open_metrics": open_metrics}})
    described = create_app(settings, UNUSED, Keys(hash_of("all"))).openapi()
    schemes = described["components"]["securitySchemes"]
    assert {each["type"] for each in schemes.values()} == {"http", "apiKey"}
    without = set()
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            if "security" not in operation:
                without.add((method.upper(), path))
            else:
                assert operation["security"] == [{name: []} for name in schemes]
    opened = {("GET", "/metrics")} if open_metrics else set()
    assert without == {("GET", "/livez"), ("GET", "/readyz"), ("GET", "/health")} | opened
    assert "security" not in json.dumps(app.openapi())  # where no key is asked for


def test_a_setting_opens_metrics(app):
    assert Rights(app.routes, {"/metrics"}).needed("GET", "/metrics") is Right.NONE
    assert Rights(app.routes).needed("GET", "/metrics") is not Right.NONE
    settings = Settings.model_validate({"server": {"open_metrics": True}})
    [middleware] = [
        each for each in create_app(settings, UNUSED, Keys()).user_middleware if each.cls is Requests
    ]
    assert middleware.kwargs["rights"].needed("GET", "/metrics") is Right.NONE


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server with both keys, the second from a file, and low limits."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "secret").write_text("may-read\n")
    settings = {
        "server__api_key": "may-all", "server__read_key_file": folder / "secret", "limits__text_bytes": 1024,
        "limits__query_bytes": 64,
    }  # fmt: skip
    with serving(folder / "data", **NO_MODEL, **settings) as server:
        yield server
        server.stop()
        assert "may-" not in json.dumps(server.log)


def test_each_route_of_a_running_server_lets_the_right_keys_in(guarded, app):
    """Every route is called with each key, without a body: what is let in is refused for another reason, or works."""
    for method, path in sorted(routes_of(app)):
        url = re.sub(r"\{number\}", "7", re.sub(r"\{\w+(:path)?\}", "none", path))
        statuses = [
            guarded.http.request(method, url, headers=headers).status_code
            for headers in ({}, bearer("wrong"), bearer("may-read"), {"api-key": "may-read"})
        ]
        is_open, is_readers = (method, path) in OPEN, (method, path) in FOR_READERS
        if is_open:
            assert set(statuses) <= {200, 404}, path  # no such file is there
        else:
            assert statuses[:2] == [401, 401], path
            assert (statuses[2:] == [403, 403]) is not is_readers, path
        if is_readers:
            assert 403 not in statuses and statuses[2] in (200, 404, 415, 422), path
    let_in = guarded.http.post("/documents", headers=bearer("may-all"), json={"documents": []})
    assert let_in.status_code == 422


def test_a_readers_write_is_refused_in_our_shape(guarded):
    refused = guarded.http.post("/documents", headers={"api-key": "may-read"}, json={"documents": []})
    body = refused.json()
    assert (refused.status_code, body["code"], body["title"]) == (
        403,
        "read_only_key",
        "The key may only read",
    )
    assert body["hint"] == "Send the key that may do everything."
    assert refused.headers["content-type"] == "application/problem+json"
    assert body["request_id"] == refused.headers["x-request-id"]


def test_no_header_of_other_sites_is_answered_where_none_is_allowed(guarded):
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    for answer in (
        guarded.http.options("/search", headers=asked),
        guarded.http.get("/livez", headers={"origin": "https://evil.example"}),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_named_sites_may_call_and_read_errors_too(tmp_path, serve):
    origins = {"server__cors_origins": "https://notes.example.org, http://192.168.1.5:8080"}
    with serve(tmp_path, **NO_MODEL, **origins, server__api_key="k") as server:
        asked = {
            "origin": "https://notes.example.org", "access-control-request-method": "POST",
            "access-control-request-headers": "authorization, content-type",
        }  # fmt: skip
        allowed = server.http.options("/search", headers=asked)  # a browser asks this without the key
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://notes.example.org"
        assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
        other = server.http.options("/search", headers={**asked, "origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        error = server.http.post("/search", headers={"origin": "http://192.168.1.5:8080"})
        assert error.status_code == 401
        assert error.headers["access-control-allow-origin"] == "http://192.168.1.5:8080"
        assert "access-control-allow-credentials" not in error.headers
        server.stop()


# Where keys come from


def test_a_server_that_others_can_reach_makes_a_key_prints_it_once_and_keeps_its_hash(tmp_path, serve):
    settings = {**NO_MODEL, "server__host": "0.0.0.0"}

    def status(server, key):
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        return httpx.get(f"{url}/stats", headers=bearer(key), trust_env=False).status_code

    with serve(tmp_path, **settings) as server:
        assert status(server, "x") == 401
        server.stop()
        printed = "".join(server.other)
        assert "No key was set for 0.0.0.0:" in printed and "shown this once" in printed
        [key] = re.findall(r"^    ([\w-]{43})$", printed, re.MULTILINE)
        assert key not in json.dumps(server.log)
    stored = tmp_path / HASH_NAME
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    assert stored.read_text() == hash_of(key).hex() + "\n"
    with serve(tmp_path, **settings) as server:
        assert (status(server, key), status(server, "x")) == (200, 401)
        server.stop()
        assert server.other == []


def run_key(data_dir, *options, **settings):
    return called(data_dir, "key", *options, **settings)


def test_twopass_key_makes_another_says_where_it_comes_from_and_forgets_it(tmp_path):
    data_dir = tmp_path / "new" / "data"
    assert "No key is set, and none was made." in run_key(data_dir).out
    assert not data_dir.exists()
    made = run_key(data_dir, "--new")
    key = made.out.strip()
    assert made.code == 0 and stored_hash(data_dir) == hash_of(key)
    assert made.err == "A running server takes this up when it is started again.\n"
    assert run_key(data_dir).out == f"The key that was made here; its hash is in {data_dir / HASH_NAME}.\n"
    told = run_key(data_dir, server__api_key="k")
    assert told.out == "The key of the settings, server.api_key or server.api_key_file.\n"
    assert run_key(data_dir, "--remove").out == "The key is forgotten.\n"
    assert stored_hash(data_dir) is None
    wrong = run_key(data_dir, server__api_key_file=tmp_path / "no")
    assert wrong.code == 2 and "No such file or directory" in wrong.err


def settings_of(tmp_path, **server):
    return Settings.model_validate({"data_dir": tmp_path, "server": server})


def refuse(key):
    raise AssertionError("no key was to be made")


def test_a_key_is_made_only_where_it_is_needed(tmp_path):
    assert open_keys(settings_of(tmp_path), False, refuse) == Keys()
    assert list(tmp_path.iterdir()) == []
    set_key = settings_of(tmp_path, api_key="a")
    assert open_keys(set_key, True, refuse) == Keys(hash_of("a"))
    made = []
    keys = open_keys(settings_of(tmp_path, read_key="r"), False, made.append)  # else everybody could write
    assert keys == Keys(hash_of(made[0]), hash_of("r"))
    assert open_keys(settings_of(tmp_path), True, refuse) == Keys(hash_of(made[0]))
    # It holds on where only this machine can connect: it was made for this data.
    assert open_keys(settings_of(tmp_path), False, refuse) == Keys(hash_of(made[0]))
    assert open_keys(set_key, True, refuse) == Keys(hash_of("a"))  # the settings win
    again = make_key(tmp_path)
    assert open_keys(settings_of(tmp_path), True, refuse) == Keys(hash_of(again))


def test_the_same_key_for_both_rights_is_refused(tmp_path):
    with pytest.raises(StartupError, match="the same key"):
        open_keys(settings_of(tmp_path, api_key="a", read_key="a"), False, refuse)


@pytest.mark.parametrize("content", ["", "g" * 64, "ab" * 31, "ab" * 33])
def test_a_stored_hash_that_is_none_lets_nobody_in(tmp_path, content):
    (tmp_path / HASH_NAME).write_text(content)
    with pytest.raises(StartupError, match="doesn't hold the hash of a key") as raised:
        open_keys(settings_of(tmp_path), False, refuse)
    assert raised.value.hint == "Make another key: `twopass key --new`"


def test_a_full_disk_leaves_no_half_written_key(tmp_path, monkeypatch):
    key = make_key(tmp_path)

    def full(fd):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Exception, match="no room left"):
        make_key(tmp_path)
    assert stored_hash(tmp_path) == hash_of(key)
    assert [each.name for each in tmp_path.iterdir()] == [HASH_NAME]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"two words", "without spaces"),
        (b"one\ntwo", "without spaces or line breaks"),
        ("schlüssel".encode(), "made of ASCII"),
        (b"k" * 4097, "has more than 4096 bytes"),
    ],
)
def test_a_secret_that_is_no_key_is_refused_without_being_quoted(tmp_path, content, why):
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(StartupError, match=why) as raised:
        open_keys(settings_of(tmp_path, read_key_file=tmp_path / "secret"), False, refuse)
    assert str(raised.value).startswith(f"server.read_key_file: {tmp_path / 'secret'}")
    for word in content.decode().split():
        assert word not in str(raised.value)


def test_a_key_stands_in_one_place(tmp_path):
    environ = {"TWOPASS_SERVER__API_KEY": "k", "TWOPASS_SERVER__API_KEY_FILE": "/run/secrets/key"}
    with pytest.raises(SettingsError, match=r"server\.api_key and server\.api_key_file are both set"):
        load_settings(None, environ)
    del environ["TWOPASS_SERVER__API_KEY"]
    assert str(load_settings(None, environ).server.api_key_file) == "/run/secrets/key"
    assert load_settings(None, {"TWOPASS_SERVER__API_KEY_FILE": ""}).server.api_key_file is None


@pytest.mark.parametrize(
    "origin", ["notes.example.org", "https://a.example/", "https://A.example", "null", "*.a"]
)
def test_what_is_no_origin_is_refused_in_the_words_of_a_browser(origin):
    with pytest.raises(SettingsError, match="is no origin; write it as a browser does"):
        load_settings(None, {"TWOPASS_SERVER__CORS_ORIGINS": origin})
    many = load_settings(None, {"TWOPASS_SERVER__CORS_ORIGINS": "*,http://[::1]:80"}).server.cors_origins
    assert many == ("*", "http://[::1]:80")


@pytest.mark.parametrize(("given", "read"), [("true", True), ("no", False)])
def test_a_switch_is_read_as_one_and_nothing_else_is(given, read):
    assert load_settings(None, {"TWOPASS_SERVER__OPEN_METRICS": given}).server.open_metrics is read
    with pytest.raises(
        SettingsError, match=r"server.open_metrics can't be 'maybe'; it takes true or false\."
    ):
        load_settings(None, {"TWOPASS_SERVER__OPEN_METRICS": "maybe"})


# Limits


def test_one_request_more_than_may_be_under_way_is_told_to_come_again_and_probes_are_not_counted():
    async def story():
        begun, end = asyncio.Event(), asyncio.Event()

        async def app(scope, receive, send):
            if scope["path"] == "/slow":
                begun.set()
                await end.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})

        class Some:
            def needed(self, method, path):
                return Right.NONE if path == "/livez" else Right.READ

        middleware = Requests(app, Keys(), Sites(), Some(), LimitSettings(concurrent_requests=1), Metrics())
        client = httpx.AsyncClient(transport=httpx.ASGITransport(middleware), base_url="http://localhost")
        slow = asyncio.create_task(client.get("/slow"))
        await asyncio.wait_for(begun.wait(), 30)
        refused, probe = await client.get("/other"), await client.get("/livez")
        end.set()
        first, after = await slow, await client.get("/other")
        await client.aclose()
        return refused, probe, first, after

    refused, probe, first, after = asyncio.run(story())
    assert [each.status_code for each in (refused, probe, first, after)] == [429, 200, 200, 200]
    assert refused.json()["code"] == "busy" and refused.headers["retry-after"] == "1"
    assert refused.json()["detail"] == "as many requests are under way as may be: 1"
    assert "limits.concurrent_requests" in refused.json()["hint"]


def test_bodies_that_would_not_fit_into_the_memory_left_are_told_to_come_again(monkeypatch):
    """32 MiB are kept back; the 80 MiB beside them hold bodies of 20, four times."""
    monkeypatch.setattr("server.api.traffic.room", lambda: Room(1 << 30, 112 << 20, "the machine"))
    traffic = Traffic(LimitSettings())
    with traffic.counted(12 << 20), traffic.counted(0), traffic.counted(1 << 20):
        with pytest.raises(BusyError) as raised, traffic.counted(9 << 20):
            pass
        assert str(raised.value) == (
            "the body has 9437184 bytes and 12582912 more are under way, which takes up to 84 MiB of memory; "
            "80 MiB are left for that"
        )
        with traffic.counted(8 << 20):
            pass
    with traffic.counted(20 << 20):
        pass


def test_texts_and_queries_have_a_longest_length(guarded):
    def send(path, body):
        return guarded.http.post(path, json=body, headers=bearer("may-all"))

    document = {"id": "a", "text": "ü" * 512, "vector": [1.0] * 8}
    assert send("/documents", {"documents": [document]}).status_code == 201
    document["text"] += "x"
    refused = send("/documents", {"documents": [document]})
    assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
    assert refused.json()["detail"] == "documents[0].text has 1025 bytes; the limit is 1024"
    stored = guarded.http.get("/documents/a", headers=bearer("may-read")).json()
    assert stored["text"] == "ü" * 512
    refused = send("/search/batch", {"searches": [{"query": "ü" * 32}, {"query": "ü" * 32 + "x"}]})
    assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
    assert refused.json()["detail"] == "searches[1].query has 65 bytes; the limit is 64"
