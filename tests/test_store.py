"""server/store.py and catalog.py as a machine that hypothesis drives, against a dictionary and plain numpy."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from index import reference
from index.first_pass import writer
from index.two_pass import Mode
from index.vectors import normalise
from server.catalog import Catalog
from server.errors import StaleWriteError
from server.records import DocumentWrite
from server.store import CATALOG_NAME, LocalStore
from server.verification import verify

DIM, PREFIX = 12, 8
IDS = st.sampled_from([f"id {i}" for i in range(12)])


def unit(seed, n):
    return normalise(np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32))


class Store(RuleBasedStateMachine):
    """Adds, replaces, deletes, renames metadata, reopens; everything found must be what a dictionary says."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.data_dir = Path(self.folder.name)
        self.path = self.data_dir / "collections" / "default"
        self.path.mkdir(parents=True)
        self.expected = {}  # id: (vectors of its passages, metadata)
        self.tail_rows = writer.TAIL_ROWS
        writer.TAIL_ROWS = 16

    @initialize()
    def open(self):
        self.catalog = Catalog(self.path / CATALOG_NAME)
        generation = self.catalog.generations.current() or self.catalog.generations.begin(
            1, "{}", DIM, "float32"
        )
        self.store = LocalStore(self.catalog, generation, PREFIX)

    @rule()
    def reopen(self):
        self.store.close()
        self.catalog.close()
        self.open()

    @rule(
        ids=st.lists(IDS, min_size=1, max_size=6, unique=True),
        sizes=st.integers(1, 3),
        seed=st.integers(0, 10**6),
    )
    def put(self, ids, sizes, seed):
        vectors = unit(seed, len(ids) * sizes)
        writes = [
            DocumentWrite(name, f"{name} {seed}", "{}", f"{name}{seed}".encode(), False, [(0, 1)] * sizes)
            for name in ids
        ]
        before = set(self.expected)
        stored = self.store.put(writes, vectors)
        assert (stored.created, stored.updated) == (len(set(ids) - before), len(set(ids) & before))
        for i, name in enumerate(ids):
            self.expected.pop(name, None)  # a replaced document's rows are the newest; equal scores go by row
            self.expected[name] = (vectors[i * sizes : (i + 1) * sizes], "{}", f"{name}{seed}".encode())

    @rule(name=IDS, tag=st.integers(0, 9), stale=st.booleans())
    def change_metadata(self, name, tag, stale):
        known = self.expected.get(name)
        content_hash = known[2] if known and not stale else b"stale"
        before = self.store.index.n_rows
        try:
            self.store.put([], np.empty((0, DIM), np.float32), [(name, content_hash, f'{{"tag":{tag}}}')])
        except StaleWriteError:
            assert known is None or stale
        else:
            assert known is not None
            self.expected[name] = (known[0], f'{{"tag":{tag}}}', known[2])
        assert self.store.index.n_rows == before

    @rule(ids=st.lists(IDS, max_size=4))
    def delete(self, ids):
        found = self.store.delete(ids)
        assert sorted(found) == sorted({name for name in ids if name in self.expected})
        for name in found:
            del self.expected[name]

    @rule(seed=st.integers(0, 10**6), k=st.integers(1, 14), mode=st.sampled_from(Mode))
    def search(self, seed, k, mode):
        query = unit(seed, 1)
        (found,) = self.store.search(query, k, mode, 8, 80)
        numbers = self.store.documents([hit.document for hit in found.hits])
        ids = [numbers[hit.document].id for hit in found.hits]
        if not self.expected:
            assert ids == []
            return
        names = [name for name, (vectors, *_) in self.expected.items() for _ in vectors]
        everything = np.concatenate([vectors for vectors, *_ in self.expected.values()])
        ranked = reference.prefix if mode is Mode.PREFIX else lambda v, q, _, n: reference.exact(v, q, n)
        rows, _ = ranked(everything, query, PREFIX, len(everything))
        assert ids == list(dict.fromkeys(names[row] for row in rows[0]))[:k]

    @invariant()
    def counts_agree(self):
        if hasattr(self, "store"):
            n_passages = sum(len(vectors) for vectors, *_ in self.expected.values())
            assert self.catalog.counts() == (len(self.expected), n_passages)
            assert self.store.index.n_live == n_passages
            for document in self.catalog.page("", 100):
                assert document.metadata == (
                    {} if self.expected[document.id][1] == "{}" else document.metadata
                )

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()
            self.catalog.close()
            # Its texts aren't hashed as ingest hashes them, so those findings don't count here.
            problems = verify(self.data_dir, lambda done, total: None).problems
            assert [each for each in problems if each.code != "text_damaged"] == []
        writer.TAIL_ROWS = self.tail_rows
        self.folder.cleanup()


TestStore = Store.TestCase
TestStore.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
