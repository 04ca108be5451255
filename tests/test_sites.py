"""Pages of other sites, of which a browser lets any call 127.0.0.1, against a server that asks for no key."""

import pytest
from conftest import serving

from server.api.sites import Sites
from server.errors import ForeignSiteError

ANSWERED = {"vector": [1, 0, 0, 0]}


def headers(host=None, origin=None):
    given = {b"host": host, b"origin": origin}
    return {name: value.encode() for name, value in given.items() if value is not None}


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (None, None),  # HTTP/1.0
        ("127.0.0.1:8000", None),
        ("[::1]:8000", "http://[::1]:8000"),
        ("192.168.1.5", "http://192.168.1.5"),
        ("localhost:8000", "http://localhost:8000"),
        ("LocalHost.:8000", None),
        ("notes.localhost", None),
        ("nas.local", "https://nas.local"),
        ("127.0.0.1:8000", "https://notes.example.org"),
    ],
)
def test_what_is_ours_passes(host, origin):
    Sites(["NAS.local"], ["https://notes.example.org"]).check(headers(host, origin))


@pytest.mark.parametrize(
    ("host", "origin", "told"),
    [
        ("evil.example:8000", None, "'evil.example:8000'"),
        ("evil.example:8000", "http://evil.example:8000", "'evil.example:8000'"),
        ("127.0.0.1.evil.example", None, "'127.0.0.1.evil.example'"),
        ("notlocalhost", None, "'notlocalhost'"),
        ("[::1", None, "'[::1'"),
        ("127.0.0.1@evil.example", None, "'127.0.0.1@evil.example'"),
        ("127.0.0.1:8000", "http://evil.example", "'http://evil.example'"),
        ("127.0.0.1:8000", "http://127.0.0.1:9000", "'http://127.0.0.1:9000'"),  # another server here
        ("127.0.0.1:8000", "null", "'null'"),  # a file, or a page that hides its name
    ],
)
def test_what_another_site_asks_is_refused(host, origin, told):
    with pytest.raises(ForeignSiteError, match=r"\A[^\n]*" + told.replace("[", r"\[")):
        Sites(["nas.local"], ["https://notes.example.org"]).check(headers(host, origin))


def test_every_site_may_call_where_the_settings_say_so():
    Sites((), ["*"]).check(headers("127.0.0.1:8000", "null"))


def test_a_server_without_a_key_answers_no_foreign_page_and_one_with_a_key_whoever_has_it(tmp_path):
    settings = {"encoder__model": "none", "encoder__dim": 4}
    foreign = ({"Host": "evil.example"}, {"Origin": "http://evil.example"})
    with serving(tmp_path / "open", **settings) as server:
        for sent in foreign:
            answer = server.http.post("/search", json=ANSWERED, headers=sent)
            assert (answer.status_code, answer.json()["code"]) == (403, "foreign_site")
            # A form needs no permission to send this one.
            assert server.http.post("/index/rebuild", headers=sent).status_code == 403
            assert server.http.get("/livez", headers=sent).status_code == 200
        own = {"Origin": str(server.http.base_url).rstrip("/")}
        assert server.http.post("/search", json=ANSWERED, headers=own).status_code == 200
        assert server.http.get("/jobs").json()["jobs"] == []
        assert server.stop() == 0
    with serving(tmp_path / "guarded", **settings, server__api_key="a-key-long-enough-to-be-one") as server:
        for sent in foreign:
            assert server.http.post("/search", json=ANSWERED, headers=sent).status_code == 401
            key = {"api-key": "a-key-long-enough-to-be-one"}
            assert server.http.post("/search", json=ANSWERED, headers=sent | key).status_code == 200
        assert server.stop() == 0
