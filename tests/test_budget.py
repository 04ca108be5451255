"""Memory: what the codes may take, and that too little of it refuses writes or makes leaner codes, and kills nobody."""

import gc
from base64 import b64encode
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import clustered

from index.axes import Order
from index.errors import MemoryFullError
from index.plan import Codec, Plan, Wish
from index.planner import (
    LEAST_TRAINING_ROWS,
    Machine,
    leanest,
    propose,
    rebuild_bytes,
    training_rows,
    training_within,
)
from index.two_pass import Shape, TwoPassIndex
from server import upkeep
from server.budget import RESERVE_BYTES, Budget, budget_of
from server.errors import answer_for
from server.jobs import Jobs
from server.memory import Room, no_garbage
from server.settings import IndexSettings
from server.upkeep import Upkeep

MIB = 1 << 20
MILLION = 1_000_000
NO_ROWS = np.zeros(0, np.int64)


# What there is


def test_a_budget_is_what_the_settings_say_or_what_the_limit_leaves():
    plenty = Room(1000 * MIB, 900 * MIB, "x")
    assert budget_of(IndexSettings(), plenty, 0) == Budget(500 * MIB, 250 * MIB)
    assert budget_of(IndexSettings(memory_budget="300MiB"), plenty, 0) == Budget(300 * MIB, 300 * MIB)
    full = Room(1000 * MIB, 100 * MIB + RESERVE_BYTES, "x")  # the model takes most of it
    assert budget_of(IndexSettings(), full, 0) == Budget(100 * MIB, 100 * MIB // 3)
    assert budget_of(IndexSettings(), full, 50 * MIB) == Budget(150 * MIB, 50 * MIB)
    assert budget_of(IndexSettings(), Room(1000 * MIB, 0, "x"), 0) == Budget(0, 0)


# Making a first pass


def test_codes_that_cant_be_made_in_the_memory_left_aren_t_chosen():
    wish = Wish(256, memory_bytes=500 * MIB, resident_bytes=500 * MIB)
    usual = propose(3 * MILLION, 768, wish, Machine())[0].plan
    tight = rebuild_bytes(usual, 3 * MILLION, 768, LEAST_TRAINING_ROWS) - 1
    leaner = propose(3 * MILLION, 768, replace(wish, working_bytes=tight), Machine())[0].plan
    assert leaner != usual and leaner.row_bytes < usual.row_bytes
    assert rebuild_bytes(leaner, 3 * MILLION, 768, LEAST_TRAINING_ROWS) <= tight


def test_a_plan_is_fitted_to_fewer_rows_where_memory_is_short_and_not_at_all_where_there_is_none():
    [proposal] = propose(MILLION, 768, Wish(256, codec=Codec.RABITQ, target_recall=1.0), Machine())[:1]

    def rows(working_bytes):
        return training_within([proposal], MILLION, 768, Wish(256, working_bytes=working_bytes))

    most = rebuild_bytes(proposal.plan, MILLION, 768)
    least = rebuild_bytes(proposal.plan, MILLION, 768, LEAST_TRAINING_ROWS)
    assert rows(None) == rows(most) == training_rows(proposal.plan) == 16_384
    assert rows(least) == LEAST_TRAINING_ROWS < rows((least + most) // 2) < rows(most)
    with pytest.raises(
        MemoryFullError, match=r"over 1,000,000 passages takes up to \d+ MiB of memory, and 50 MiB"
    ):
        rows(50 * MIB)


def filled(folder, n_rows, dim=32, prefix_dim=32):
    index = TwoPassIndex(folder, Shape(1, dim, prefix_dim, "float16"), 0, np.zeros(0, np.bool_))
    index.publish(index.append(clustered(n_rows, dim, seed=3), 0), NO_ROWS)
    return index


def test_a_rebuild_without_the_memory_for_it_changes_nothing(tmp_path):
    index = filled(tmp_path, 1200)
    before, files = index.plan, sorted(each.name for each in tmp_path.iterdir())
    with pytest.raises(MemoryFullError):
        index.rebuild(Wish(32, working_bytes=MIB))
    assert index.plan == before and sorted(each.name for each in tmp_path.iterdir()) == files
    assert index.rebuild(Wish(32, working_bytes=200 * MIB)) is not None


def test_codes_that_have_outgrown_their_memory_are_made_leaner_if_there_is_a_leaner_form(tmp_path):
    index = filled(tmp_path, 2000)
    wish = Wish(32, memory_bytes=2000 * 32, resident_bytes=2000 * 32)
    assert index.rebuild(wish).plan.codec is Codec.INT8  # 32 bytes a row
    assert not index.rebuild_due(wish)
    half = replace(wish, memory_bytes=2000 * 24, resident_bytes=2000 * 24, codec=None)
    assert leanest(2000, 32, wish).row_bytes == 32  # so few rows keep 8 bits a dimension
    assert leanest(2000, 32, half).row_bytes == 20  # unless the memory is too small for that
    assert index.rebuild_due(half)
    assert index.rebuild(half).plan.row_bytes <= 24 and not index.rebuild_due(half)
    index.check_room(half, 400)
    with pytest.raises(
        MemoryFullError, match=r"^2,401 passages take 48,020 bytes of memory in the leanest form"
    ):
        index.check_room(half, 401)
    roomy = Wish(32, codec=Codec.PQ4)
    index.rebuild(roomy)
    assert index.plan.row_bytes == 24
    assert not index.rebuild_due(roomy)
    assert not index.rebuild_due(replace(roomy, memory_bytes=1))  # nothing fits: nothing to be done


def test_growth_is_refused_where_not_even_the_leanest_codes_have_room(tmp_path):
    index = filled(tmp_path, 2000)
    wish = Wish(32, memory_bytes=MIB, resident_bytes=MIB)
    lean = leanest(60_000, 32, wish)
    assert (lean.codec, lean.row_bytes) == (Codec.RABITQ, 20)
    index.check_room(wish, 50_000 - 2000)  # the plan in place takes 6 MiB for them; the leanest 0.95
    with pytest.raises(MemoryFullError) as raised:
        index.check_room(wish, 60_000 - 2000)
    assert str(raised.value) == (
        "60,000 passages take 1,200,000 bytes of memory in the leanest form, and 1,048,576 are set apart for that"
    )
    index.check_room(replace(wish, memory_bytes=None, resident_bytes=None), MILLION)
    with pytest.raises(MemoryFullError):  # a codec of one's own leaves no leaner form
        index.check_room(replace(wish, codec=Codec.INT8), 40_000 - 2000)


def test_a_first_pass_whose_codes_no_longer_fit_isn_t_loaded_and_searches_find_the_same(tmp_path):
    vectors = clustered(2000, 32, seed=3)
    index = filled(tmp_path, 2000)
    index.rebuild(Wish(32, codec=Codec.PQ4))
    assert index.plan.is_resident
    shape, live = index.shape, np.ones(2000, np.bool_)
    enough = TwoPassIndex(tmp_path, shape, 2000, live, 2000 * index.plan.row_bytes)
    assert enough.plan == index.plan
    lean = TwoPassIndex(tmp_path, shape, 2000, live, 2000 * index.plan.row_bytes - 1)
    assert lean.plan.is_plain and not lean.plan.is_resident
    assert lean.search(vectors[:20], 80).rows[:, 0].tolist() == list(range(20))
    assert lean.rebuild_due(Wish(32))


# Through the house


class Told(Upkeep):
    """Upkeep of a made-up index."""

    def __init__(self, n_rows, **settings):
        plan = Plan(Codec.PQ4, Order.CORPUS, 256, 64)

        def check_room(wish, n_new):
            self.asked = (wish.memory_bytes, n_new)

        index = SimpleNamespace(n_rows=n_rows, plan=plan, check_room=check_room)
        store = SimpleNamespace(index=index, shape=SimpleNamespace(prefix_dim=256))
        super().__init__(store, IndexSettings(**settings), Jobs())


def test_writes_are_refused_while_hardly_any_memory_is_left(monkeypatch):
    keeper = Told(MILLION)
    monkeypatch.setattr(upkeep, "room", lambda: Room(400 * MIB, 300 * MIB, "/sys/fs/cgroup/memory.max"))
    keeper.check_room(7)
    assert keeper.asked == (200 * MIB, 7)
    monkeypatch.setattr(upkeep, "room", lambda: Room(400 * MIB, 31 * MIB, "/sys/fs/cgroup/memory.max"))
    with pytest.raises(MemoryFullError) as raised:
        keeper.check_room(7)
    assert str(raised.value) == (
        "31 MiB of memory are left of 400 MiB (/sys/fs/cgroup/memory.max); 32 MiB are kept back for searches"
    )
    answer = answer_for(raised.value)
    assert (answer.status, answer.code) == (507, "memory_full")


def test_the_budget_stays_as_it_was_when_the_model_was_loaded(monkeypatch):
    monkeypatch.setattr(upkeep, "room", lambda: Room(400 * MIB, 200 * MIB, "x"))
    keeper = Told(MILLION)
    held = MILLION * 72
    expected = budget_of(IndexSettings(), Room(400 * MIB, 200 * MIB, "x"), held)
    assert keeper.wish().resident_bytes == expected.resident_bytes == (168 * MIB + held) // 3
    monkeypatch.setattr(upkeep, "room", lambda: Room(400 * MIB, 60 * MIB, "x"))
    assert keeper.wish().resident_bytes == expected.resident_bytes


def test_a_full_budget_refuses_writes_and_nothing_else(tmp_path, serve):
    """Codes of 1024 bytes: a budget of 1 MiB holds 1024 passages."""
    settings = {"encoder__model": "none", "encoder__dim": 256, "index__codec": "float32"}
    vectors = clustered(1024, 256, seed=4)

    def send(server, start, end, query=""):
        documents = [
            {"id": f"{i:04}", "vector": b64encode(vectors[i].astype("<f4").tobytes()).decode()}
            for i in range(start, end)
        ]
        return server.http.post(f"/documents{query}", json={"documents": documents})

    with serve(tmp_path, **settings, index__memory_budget="1MiB") as server:
        assert send(server, 0, 1000).json()["created"] == 1000
        assert send(server, 1000, 1024).json()["created"] == 24
        more = {"documents": [{"id": "more", "vector": [1.0] * 256}]}
        for query in ("", "?wait=false"):
            refused = server.http.post(f"/documents{query}", json=more)
            body = refused.json()
            assert (refused.status_code, body["code"]) == (507, "memory_full")
            assert body["detail"] == (
                "1,025 passages take 1,049,600 bytes of memory in the leanest form, and 1,048,576 are set apart "
                "for that"
            )
        assert send(server, 0, 4).json()["unchanged"] == 4  # nothing grows
        found = server.http.post("/search", json={"vector": vectors[7].tolist(), "k": 1}).json()
        assert [hit["id"] for hit in found["hits"]] == ["0007"]
        assert server.http.get("/documents/more").status_code == 404
        assert {job["type"] for job in server.http.get("/jobs").json()["jobs"]} <= {"rebuild"}
        assert server.stop() == 0


def test_what_is_imported_is_not_looked_through_for_garbage_and_all_else_is():
    frozen = gc.get_freeze_count()
    try:
        with no_garbage():
            assert not gc.isenabled()
            kept = [[n] for n in range(1000)]
        assert gc.isenabled() and gc.get_freeze_count() >= frozen + len(kept)
        with pytest.raises(ImportError), no_garbage():
            raise ImportError
        assert gc.isenabled()
    finally:
        gc.unfreeze()
