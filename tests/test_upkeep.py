"""server/upkeep.py: what the settings and the machine make of a wish."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from index.axes import Order
from index.errors import PlanError
from index.plan import Codec, Kind, Plan, plain
from server import upkeep
from server.errors import answer_for
from server.jobs import Jobs
from server.memory import Room
from server.settings import IndexSettings
from server.upkeep import Upkeep

LIMIT = 400 << 20


def wish(monkeypatch, **settings):
    monkeypatch.setattr(upkeep, "room", lambda: Room(LIMIT, LIMIT, "the machine"))
    store = SimpleNamespace(
        shape=SimpleNamespace(prefix_dim=256), index=SimpleNamespace(n_rows=0, plan=plain(256))
    )
    return Upkeep(store, IndexSettings(**settings), Jobs()).wish()


def test_mapped_codes_may_take_half_of_the_memory_and_others_a_quarter(monkeypatch):
    """A rebuild holds the latter twice."""
    found = wish(monkeypatch)
    assert (found.memory_bytes, found.resident_bytes) == (LIMIT // 2, LIMIT // 4)
    mapped = Plan(Codec.INT8, Order.CORPUS, 192, 192)
    resident = Plan(Codec.PQ4, Order.CORPUS, 256, 128)
    assert found.has_room(mapped, 1_000_000) and not found.has_room(mapped, 1_100_000)
    assert found.has_room(resident, 770_000) and not found.has_room(resident, 780_000)


def test_a_budget_in_the_settings_holds_for_every_codec(monkeypatch):
    found = wish(monkeypatch, memory_budget=300 << 20)
    assert (found.memory_bytes, found.resident_bytes) == (300 << 20, 300 << 20)


def test_the_rest_is_as_set_and_auto_leaves_the_choice(monkeypatch):
    found = wish(monkeypatch, codec="pq4", kind="ivf", order="model", bounds="none", target_recall=0.9)
    assert (found.codec, found.kind, found.order) == (Codec.PQ4, Kind.IVF, Order.MODEL)
    assert (found.with_bounds, found.target_recall, found.prefix_dim) == (False, 0.9, 256)
    free = wish(monkeypatch)
    assert (free.codec, free.kind, free.order, free.with_bounds) == (None, None, None, True)


@pytest.mark.parametrize(
    ("n_rows", "reads_per_s", "read_ms"),
    [(1000, 1000, upkeep.READ_MS), (1_000_000, 1000, 1.0), (1_000_000, 10**6, upkeep.READ_MS)],
)
def test_a_read_costs_what_the_disk_was_measured_to_take_unless_vectors_stay_in_memory(
    monkeypatch, n_rows, reads_per_s, read_ms
):
    monkeypatch.setattr(upkeep, "limit_bytes", lambda: LIMIT)
    store = SimpleNamespace(index=SimpleNamespace(n_rows=n_rows, row_bytes=1536))
    keeper = Upkeep(store, IndexSettings(), Jobs())
    assert keeper._read_ms() == upkeep.READ_MS  # not measured yet
    keeper.disk = upkeep.DiskSpeed(1.0, 1000.0, float(reads_per_s))
    assert keeper._read_ms() == read_ms


def test_a_wish_for_lists_over_a_codec_set_without_any_is_refused_with_an_answer(monkeypatch):
    with pytest.raises(PlanError) as refused:
        replace(wish(monkeypatch, codec="int8"), kind=Kind.IVF)
    answer = answer_for(refused.value)
    assert answer is not None and (answer.status, answer.code) == (422, "invalid_plan")
