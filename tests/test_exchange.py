"""`twopass export` and `twopass import`: what goes out comes in again."""

import base64
import json

import numpy as np
from conftest import clustered, serving
from typer.testing import CliRunner

from server.cli import app

BROUGHT = {"encoder__model": "none", "encoder__dim": 32, "index__prefix_dim": 16}


def twopass(*arguments, **more):
    """The command, in this process: a second less each time."""
    return CliRunner().invoke(app, [*map(str, arguments)], prog_name="twopass", **more)


def lines(path):
    return [
        json.loads(line) for line in path.read_text().split("\n")[:-1]
    ]  # not at U+2028, which is in a text


def vector(document):
    return np.frombuffer(base64.b64decode(document["vector"]), "<f4")


def test_documents_with_their_own_vectors_come_in_as_they_went_out(tmp_path):
    vectors = clustered(450, 32, seed=4)
    documents = [
        {
            "id": f"a/{n} ü?",
            "vector": each.tolist(),
            "text": f"line {n}\nof two\u2028",
            "metadata": {"n": n, "ö": [None]},
        }
        for n, each in enumerate(vectors)
    ]
    documents[7] = {"id": "only a vector", "vector": vectors[7].tolist()}
    documents[8]["text"] = " "  # white space beside a vector is a text
    with serving(tmp_path / "one", **BROUGHT) as one, serving(tmp_path / "two", **BROUGHT) as two:
        one.http.post("/documents", json={"documents": documents}).raise_for_status()
        first, second = tmp_path / "first.jsonl", tmp_path / "second.txt"
        done = twopass("export", first, "--url", one.url)
        assert (done.exit_code, done.stdout) == (0, ""), done.stderr
        written = lines(first)
        assert [each["id"] for each in written] == sorted(each["id"] for each in documents)
        assert {tuple(each) for each in written} == {("id", "text", "metadata", "vector"), ("id", "vector")}
        done = twopass("import", first, "--url", two.url)
        assert done.exit_code == 0 and done.stdout.startswith("450 documents stored: 450 new"), done
        done = twopass("export", "-", "--url", two.url)
        second.write_bytes(done.stdout_bytes)
        again = lines(second)
        assert [{**each, "vector": 0} for each in again] == [{**each, "vector": 0} for each in written]
        for one_, other in zip(written, again, strict=True):
            np.testing.assert_allclose(vector(one_), vector(other), atol=1e-3)
        done = twopass(
            "import", "-", "--url", two.url, input=second.read_bytes() + b'{"id": 5}\n\n{"text": "x"\n'
        )
        assert done.exit_code == 1
        assert "450 unchanged" in done.stdout and "Skipped: 2" in done.stdout and "line 451" in done.stdout
        missing = twopass("import", tmp_path / "nowhere.jsonl", "--url", two.url)
        assert (missing.exit_code, missing.stderr.split(":")[0]) == (1, "twopass")
        one.stop()
        two.stop()


def test_vectors_that_were_made_here_are_left_to_be_made_again_unless_asked_for(texts, tmp_path):
    long = " ".join(f"Sentence number {n} is about a boat." for n in range(200))
    documents = [
        {"id": "exchange long", "text": long},
        {"id": "exchange short", "text": "A boat.", "metadata": {"n": 1}},
    ]
    texts.http.post("/documents", json={"documents": documents}).raise_for_status()

    def page(which):
        answer = texts.http.get(
            "/documents", params={"vectors": which, "after": "exchange", "limit": 2}
        ).json()
        return {each["id"]: each["vector"] for each in answer["documents"]}

    assert page("brought") == {"exchange long": None, "exchange short": None}
    found = page("all")
    assert found["exchange long"] is None  # of several passages
    query = {"query": "boat", "k": 2, "include": ["vector"], "filter": {"$id": "exchange short"}}
    (hit,) = texts.http.post("/search", json=query).json()["hits"]
    np.testing.assert_array_equal(
        np.frombuffer(base64.b64decode(found["exchange short"]), "<f4"), np.float32(hit["vector"])
    )
    done = twopass("export", "-", "--vectors", "--url", texts.url)
    short = next(
        each for each in map(json.loads, done.stdout_bytes.splitlines()) if each["id"] == "exchange short"
    )
    assert short == {
        "id": "exchange short",
        "text": "A boat.",
        "metadata": {"n": 1},
        "vector": found["exchange short"],
    }
    assert "vector" not in texts.http.get("/documents?limit=1").json()["documents"][0]
    assert texts.http.get("/documents?vectors=some").status_code == 422
