"""The threads that searches run in."""

import asyncio
import os
import threading

import numpy as np
import pytest

from server.api.threads import Running
from server.app import open_collection
from server.checking import NewDocument
from server.metrics import Metrics
from server.queries import Query
from server.settings import EncoderSettings, Settings

N_SEARCHES = 40


@pytest.mark.parametrize(
    ("wave_rows", "warm", "kind", "most"),
    [(0, False, "scan", os.cpu_count()), (8, False, "read", 16), (8, True, "scan", os.cpu_count())],
    ids=["fast disk", "slow disk", "slow disk, all read before"],
)
def test_searches_that_wait_for_nothing_take_no_more_threads_than_there_are_cores(
    tmp_path, monkeypatch, wave_rows, warm, kind, most
):
    if not warm:  # as file systems do that can't say what the page cache holds
        monkeypatch.setattr("index.vector_file.NOWAIT", 0)
    settings = Settings(data_dir=tmp_path, encoder=EncoderSettings(model="none", dim=4))
    vector = np.array([1, 0, 0, 0], np.float32)
    with open_collection(settings) as collection:
        collection.add([NewDocument("a", None, {}, vector)])
        collection.store.index.wave_rows = wave_rows
        for _ in range(100):
            collection.search([Query(vector=vector)])
        names = set()
        collection.on_search(lambda queries, answers: names.add(threading.current_thread().name))

        async def ask():
            service = Running(collection, settings, Metrics())
            searches = (service.search([Query(vector=vector)]) for _ in range(N_SEARCHES))
            found = await asyncio.gather(*searches)
            service.close()
            return [answers[0].hits[0].document.id for answers, _ in found]

        assert asyncio.run(ask()) == ["a"] * N_SEARCHES
    assert {name.split("-")[0] for name in names} == {kind}
    assert len(names) <= most
