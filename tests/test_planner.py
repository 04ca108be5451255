"""index/planner.py: which plan fits rows, dimensions, memory and wishes."""

from dataclasses import replace
from itertools import pairwise

import pytest

from index.axes import Order
from index.errors import PlanError
from index.first_pass.codecs import code_bytes
from index.plan import Codec, Kind, Plan, Wish, plain
from index.planner import Machine, machine_factor, propose, rebuild_bytes

MILLION = 1_000_000


def best(n_rows, wish=None, dim=768, machine=None):
    return propose(n_rows, dim, wish or Wish(256), machine or Machine())[0]


@pytest.mark.parametrize("n_rows", [1, 1000, 32_768])
def test_a_small_collection_keeps_8_bits_a_dimension(n_rows):
    assert best(n_rows).plan == Plan(Codec.INT8, Order.CORPUS, 256, 256)


@pytest.mark.parametrize("n_rows", [100_000, 200_000, 499_999])
def test_a_large_one_gets_product_codes_and_compares_every_row(n_rows):
    plan = best(n_rows).plan
    assert (plan.codec, plan.kind) == (Codec.PQ4, Kind.FLAT)
    assert plan.prefix_dim <= 256


def test_a_high_target_recall_compares_every_row_of_a_million():
    assert best(MILLION, Wish(256, target_recall=0.999)).plan.kind is Kind.FLAT


@pytest.mark.parametrize("n_rows", [500_000, 2 * MILLION, 10 * MILLION, 200 * MILLION])
def test_millions_get_an_inverted_file(n_rows):
    plan = best(n_rows).plan
    assert (plan.codec, plan.kind) == (Codec.PQ4, Kind.IVF)
    assert 1 < plan.n_lists <= 4096 and 1 <= plan.n_probes < plan.n_lists


@pytest.mark.parametrize("n_rows", [5000, 100_000, MILLION, 5 * MILLION])
@pytest.mark.parametrize("row_bytes", [24, 40, 72, 150, 300, 2000])
def test_no_proposal_wants_more_memory_than_there_is(n_rows, row_bytes):
    wish = Wish(256, memory_bytes=n_rows * row_bytes)
    proposals = propose(n_rows, 768, wish, Machine())
    smallest = min(proposal.memory_bytes for proposal in propose(n_rows, 768, Wish(256), Machine()))
    if wish.memory_bytes >= smallest:
        assert all(proposal.memory_bytes <= wish.memory_bytes for proposal in proposals)
    else:
        assert len(proposals) == 1
    for proposal in proposals:
        assert proposal.memory_bytes == n_rows * proposal.plan.row_bytes
        assert proposal.search_ms > 0 and proposal.reads >= 10


def test_memory_that_nothing_fits_gets_the_smallest_plan_there_is():
    (only,) = propose(MILLION, 768, Wish(256, memory_bytes=1), Machine())
    assert (only.plan.codec, only.plan.code_bytes, only.plan.prefix_dim) == (Codec.PQ4, 16, 128)


def test_less_memory_never_gives_longer_codes():
    sizes = [
        best(MILLION, Wish(256, memory_bytes=row_bytes * MILLION)).memory_bytes
        for row_bytes in (300, 150, 110, 75, 60, 41, 25, 5)
    ]
    assert all(after <= before for before, after in zip([s for s in sizes if s], sizes[1:], strict=False))
    assert sizes[-1] == 24 * MILLION


@pytest.mark.parametrize("longest", [128, 160, 191, 192, 256])
def test_codes_shorter_than_the_usual_ones_are_for_tight_memory_and_have_longer_ones_behind_them(longest):
    wish = Wish(longest, codec=Codec.PQ4)
    slow = Machine(speed_factor=100)  # the shortest codes are the fastest
    assert propose(MILLION, 768, wish, slow)[0].plan.code_bytes >= 64
    tight = replace(wish, memory_bytes=60 * MILLION)
    sizes = [each.plan.code_bytes for each in propose(MILLION, 768, tight, slow)]
    assert sizes[0] == 16 and (longest < 192 or sizes[-1] >= 32)


def test_proposals_behind_the_best_have_longer_and_longer_codes():
    for n_rows in (50_000, MILLION, 5 * MILLION):
        sizes = [each.plan.code_bytes for each in propose(n_rows, 768, Wish(256), Machine())]
        assert sizes == sorted(sizes) and len(sizes) > 1
        assert all(longer >= 2 * size for size, longer in pairwise(sizes))


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("n_rows", [2000, 5 * MILLION])
def test_codec_and_order_are_as_wished(codec, order, n_rows):
    for proposal in propose(n_rows, 768, Wish(256, codec=codec, order=order), Machine()):
        assert (proposal.plan.codec, proposal.plan.order) == (codec, order)
        assert proposal.plan.prefix_dim <= 256
        if codec is not Codec.PQ4:
            assert proposal.plan.code_bytes == code_bytes(codec, 256)


def test_lists_are_as_wished_where_the_codec_can_have_them():
    for n_rows in (2000, 100_000):
        assert best(n_rows, Wish(256, kind=Kind.IVF)).plan.kind is Kind.IVF
        assert best(n_rows, Wish(256, codec=Codec.PQ4, kind=Kind.IVF)).plan.kind is Kind.IVF
    assert best(5 * MILLION, Wish(256, codec=Codec.PQ4, kind=Kind.FLAT)).plan.kind is Kind.FLAT
    assert best(5 * MILLION, Wish(256, codec=Codec.INT8)).plan.kind is Kind.FLAT
    assert best(5 * MILLION, Wish(256, codec=Codec.RABITQ)).plan.kind is Kind.IVF


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("dim", [1, 5, 64, 768])
def test_every_length_of_prefix_gets_a_plan_that_fits(codec, dim):
    for longest in (1, 2, 3, 7, 16, 17, 100, 127, 128, 200, 384, 768):
        for proposal in propose(100_000, dim, Wish(longest, codec=codec), Machine()):
            plan = proposal.plan
            assert 1 <= plan.prefix_dim <= min(longest, dim)
            assert plan.code_bytes >= 1
            assert plan.codec is codec or min(longest, dim) == 1
            if plan.codec is Codec.PQ4:
                assert plan.prefix_dim % (2 * plan.code_bytes) == 0


def test_a_slower_machine_or_disk_costs_time_and_shifts_the_choice():
    usual = best(MILLION)
    assert best(MILLION, machine=Machine(speed_factor=3)).search_ms > usual.search_ms
    slow_disk = best(MILLION, machine=Machine(read_ms=1.0))
    assert slow_disk.reads < usual.reads or slow_disk.plan == usual.plan
    assert slow_disk.search_ms > usual.search_ms
    assert slow_disk.plan.code_bytes >= usual.plan.code_bytes


SLOW = Machine(read_ms=1.0, reads_in_waves=True)  # a memory card: 1000 reads a second


@pytest.mark.parametrize(
    ("row_bytes", "codec", "n_dims"),
    [(300, Codec.INT8, 256), (209, Codec.INT8, 192), (130, Codec.INT8, 128), (100, Codec.PQ4, 256)],
)
def test_a_slow_disk_gets_the_codes_that_need_the_fewest_reads_of_those_that_fit(row_bytes, codec, n_dims):
    wish = Wish(256, memory_bytes=row_bytes * MILLION)
    proposals = propose(MILLION, 768, wish, SLOW)
    assert (proposals[0].plan.codec, proposals[0].plan.prefix_dim) == (codec, n_dims)
    assert proposals[0].reads == min(each.reads for each in proposals)
    quick = best(MILLION, wish)
    assert quick.plan.codec is Codec.PQ4 and quick.search_ms < 5 < proposals[0].search_ms


def test_a_slow_disk_whose_vectors_are_in_the_page_cache_is_planned_for_as_a_fast_one():
    wish = Wish(256, memory_bytes=209 * MILLION)
    cached = Machine(reads_in_waves=True)
    assert best(MILLION, wish, machine=cached).plan == best(MILLION, wish).plan


def test_reads_end_sooner_where_a_prefix_is_all_of_a_vector():
    wish = Wish(256, codec=Codec.INT8)
    whole, cut = (propose(100_000, dim, wish, SLOW)[0] for dim in (192, 768))
    assert (whole.plan.prefix_dim, cut.plan.prefix_dim) == (192, 256)
    assert whole.reads == cut.reads
    short = Wish(192, codec=Codec.INT8)
    assert propose(100_000, 768, short, SLOW)[0].reads > whole.reads


def test_codes_that_are_not_mapped_have_a_limit_of_their_own():
    wish = Wish(256, memory_bytes=300 * MILLION, resident_bytes=80 * MILLION)
    for machine in (Machine(), SLOW):
        for each in propose(MILLION, 768, wish, machine):
            assert each.memory_bytes <= (80 if each.plan.is_resident else 300) * MILLION
    assert best(MILLION, wish).plan.codec is Codec.PQ4
    assert best(MILLION, replace(wish, codec=Codec.INT8)).plan.prefix_dim == 256


@pytest.mark.parametrize("codec", [Codec.FLOAT32, Codec.FLOAT16, Codec.INT8])
def test_lists_of_a_codec_that_has_none_are_refused(codec):
    with pytest.raises(PlanError, match=f"kind ivf needs codec pq4 or rabitq, not {codec.value}"):
        Wish(256, codec=codec, kind=Kind.IVF)
    with pytest.raises(PlanError):
        replace(Wish(256, kind=Kind.IVF), codec=codec)


@pytest.mark.parametrize("codec", [None, Codec.PQ4, Codec.RABITQ])
@pytest.mark.parametrize("longest", [1, 2, 256])
def test_who_wishes_for_lists_gets_lists(codec, longest):
    for n_rows in (1000, 100_000):
        for each in propose(n_rows, 768, Wish(longest, codec=codec, kind=Kind.IVF), Machine()):
            assert each.plan.kind is Kind.IVF


def test_row_bytes_count_the_row_number_where_there_is_one():
    assert plain(256).row_bytes == 1024
    assert plain(256).is_plain and not best(1000).plan.is_plain
    assert Plan(Codec.INT8, Order.CORPUS, 256, 256).row_bytes == 256
    assert Plan(Codec.PQ4, Order.CORPUS, 256, 64).row_bytes == 72
    assert Plan(Codec.RABITQ, Order.CORPUS, 256, 40).row_bytes == 48


def test_a_wish_is_told_without_the_memory_which_may_differ_at_each_start():
    assert Wish(256, memory_bytes=5).told() == Wish(256).told()
    assert Wish(256, codec=Codec.PQ4).told() != Wish(256).told()
    assert Wish(256, target_recall=0.9).told() != Wish(256).told()


def test_the_machine_is_measured_as_a_factor():
    assert machine_factor(0.0) > 0


def test_a_rebuild_takes_more_memory_for_codes_that_are_not_mapped():
    mapped = Plan(Codec.INT8, Order.CORPUS, 256, 256)
    resident = Plan(Codec.PQ4, Order.CORPUS, 256, 128)
    assert rebuild_bytes(mapped, 10 * MILLION, 768) == rebuild_bytes(mapped, MILLION, 768)
    growth = rebuild_bytes(resident, 10 * MILLION, 768) - rebuild_bytes(resident, MILLION, 768)
    assert growth == 9 * MILLION * resident.row_bytes
    assert rebuild_bytes(mapped, MILLION, 768) < 300 << 20 < MILLION * 768 * 2
