"""What `twopass doctor` and GET /doctor find, in a healthy collection and in others."""

import contextlib
import json
import os
import shutil
from collections import namedtuple
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from conftest import called, serving

from index.axes import Order
from index.disk import DiskSpeed, measure_folder
from index.durable import DirectoryLock, lock_holder
from index.errors import StorageError
from index.plan import Codec, Plan
from server import memory
from server.budget import Budget, wish_of
from server.catalog.schema import FORMAT_VERSION
from server.doctor import Health, Subject, collection, machine, stored
from server.doctor.collection import check_damage, check_model, check_recall, check_settings
from server.doctor.machine import (
    check_cpu,
    check_disk_latency,
    check_disk_space,
    check_memory,
    check_page_size,
)
from server.doctor.subject import Data
from server.encoders.fingerprint import Fingerprint
from server.memory import Room, room
from server.records import RecallPoint
from server.settings import EncoderSettings, IndexSettings, Settings
from server.verification import verify

GOLDEN = Path(__file__).parent / "golden"
MIB = 1 << 20
NO_MODEL = {"encoder__model": "none", "encoder__dim": 32}
NAMES = [
    "memory", "disk_space", "disk_latency", "page_size", "cpu", "model", "recall", "damage", "settings",
]  # fmt: skip

RESIDENT = Plan(Codec.PQ4, Order.CORPUS, 256, 64)  # 72 bytes a row
MADE_BY = Fingerprint("m", "0" * 64, 768, "", "", "mean+normalize", 512)
RECALL = {"1": 0.7, "4": 0.95, "8": 0.992, "16": 0.999}
EVIDENCE = {
    "rows": 1_000_000,
    "wish": wish_of(IndexSettings(), 256, Budget(1, 1)).told(),
    "calibration": {
        "n_queries": 256, "oversample": 8.0, "pool_recall": RECALL, "slope": 1.0, "intercept": 0.0, "margin": 0.1,
        "same_answers": 1.0, "median_reads": 20.0, "mean_reads": 30.0,
    },
}  # fmt: skip

DATA = Data(
    MADE_BY, 768, 256, "float16", 900_000, 1_000_000, 1_000_000, 0, [], RESIDENT, EVIDENCE,
    Path("/nowhere/vectors-0001.f16"), EncoderSettings(model="m"), False,
)  # fmt: skip
WELL = Subject(Settings(), Path("/nowhere"), DATA, True, True, MADE_BY)


def having(**changes):
    return replace(WELL, data=replace(DATA, **changes))


def set_to(**index):
    return replace(WELL, settings=Settings.model_validate({"index": index}))


# The machine


@pytest.mark.parametrize(("free_mib", "status"), [(500, "ok"), (200, "warn"), (20, "fail")])
def test_memory_is_compared_with_what_the_next_first_pass_takes(monkeypatch, free_mib, status):
    monkeypatch.setattr(
        machine, "room", lambda: Room(1024 * MIB, free_mib * MIB, "/sys/fs/cgroup/memory.max")
    )
    check = check_memory(WELL)
    assert check.status == status
    assert check.found.startswith(
        f"1,024 MiB (/sys/fs/cgroup/memory.max), of which {1024 - free_mib:,} MiB are in use"
    )
    assert "codes of 1,000,000 passages 69 MiB, the process’s own" in check.found
    assert ("container" in check.advice) is (status != "ok")


def test_without_a_server_its_own_memory_and_the_models_come_on_top(monkeypatch):
    monkeypatch.setattr(machine, "room", lambda: Room(1024 * MIB, 500 * MIB, "the machine"))
    alone = replace(WELL, is_served=False, is_running=False)
    assert (check_memory(WELL).status, check_memory(alone).status) == ("ok", "warn")
    assert "a server with this model takes about 610 MiB more" in check_memory(alone).found
    empty = Subject(Settings(), Path("/nowhere"), None)  # the bundled model: 163 MiB
    assert check_memory(empty).status == "ok" and "about 273 MiB more" in check_memory(empty).found


def test_room_is_that_of_the_tightest_limit_and_page_cache_counts_as_free(monkeypatch, tmp_path):
    new, old = tmp_path / "new", tmp_path / "old"
    for folder, files in {
        new: {
            "memory.max": 400 * MIB, "memory.current": 390 * MIB,
            "memory.stat": f"anon 1\nfile {300 * MIB}\nshmem {50 * MIB}\nslab_reclaimable {10 * MIB}",
        },
        old: {
            "memory.limit_in_bytes": 300 * MIB, "memory.usage_in_bytes": 100 * MIB,
            "memory.stat": f"cache 1\ntotal_cache {40 * MIB}\ntotal_shmem {MIB}",
        },
        tmp_path / "free": {"memory.max": "max"},
    }.items():  # fmt: skip
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_text(f"{content}\n")

    def limits(*files):
        monkeypatch.setattr(memory, "group_limit_files", lambda: list(files))
        return room()

    machine_room = limits()
    assert machine_room.source == "the machine" and 0 < machine_room.free_bytes < machine_room.limit_bytes
    assert limits(tmp_path / "free" / "memory.max", tmp_path / "no").source == "the machine"
    assert limits(new / "memory.max") == Room(
        400 * MIB, (400 - 390 + 300 - 50 + 10) * MIB, str(new / "memory.max")
    )
    first = old / "memory.limit_in_bytes"
    assert limits(first) == Room(300 * MIB, 239 * MIB, str(first))
    assert limits(first, new / "memory.max") == Room(300 * MIB, 239 * MIB, str(first))


@pytest.mark.parametrize(("free", "status"), [(900, "ok"), (50, "warn"), (0.5, "fail")])
def test_disk_space_is_compared_with_the_next_first_pass_and_the_disks_size(
    monkeypatch, tmp_path, free, status
):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(1000 << 30, 0, int(free * (1 << 30))))
    check = check_disk_space(replace(WELL, folder=tmp_path))
    assert check.status == status
    assert "the next first pass 533 MiB beside it" in check.found  # 1.5 M rows of 72 + 256 bytes, and 64 MiB
    assert ("data_dir" in check.advice) is (status != "ok")


@pytest.mark.parametrize(
    ("speed", "status", "pool_ms"),
    [
        (DiskSpeed(0.08, 12_000.0, 30_000.0), "ok", "2.7"),
        (DiskSpeed(8.0, 120.0, 200.0), "warn", "400.0"),
        (DiskSpeed(100.0, 10.0, 20.0), "fail", "4,000.0"),
    ],
)
def test_a_slow_disk_is_told_by_what_a_cold_search_waits(speed, status, pool_ms):
    check = check_disk_latency(replace(WELL, disk=speed))
    assert check.status == status
    assert check.found.startswith(f"a random read of 4 KiB takes {speed.read_ms:.2f} ms")
    assert check.found.endswith(f"take {pool_ms} ms")


def test_a_disk_is_measured_by_a_file_that_is_gone_afterwards_and_one_that_cant_be_written_fails(
    tmp_path, small_disk
):
    folder = tmp_path / "data"
    folder.mkdir()
    measure_folder(folder)
    assert check_disk_latency(Subject(Settings(), folder / "not" / "there", None)).status == "ok"
    assert list(folder.iterdir()) == []
    (small_disk / "full").write_bytes(bytes(3 << 20))
    check = check_disk_latency(Subject(Settings(), small_disk, None))
    assert check.status is Health.FAIL and "no room left" in check.found and "Free some room" in check.advice
    check = check_disk_latency(Subject(Settings(), Path("/proc/self"), None))
    assert check.status is Health.FAIL and "/proc" in check.found


def test_large_pages_and_a_processor_without_wide_instructions_are_warned_of(monkeypatch):
    check = check_page_size(WELL)
    assert (check.status == "ok") is (os.sysconf("SC_PAGE_SIZE") == 4096)
    monkeypatch.setattr("os.sysconf", lambda name: 16384)
    check = check_page_size(WELL)
    assert check.status == "warn" and "4 times as much" in check.found and "kernel8.img" in check.advice
    monkeypatch.setattr(machine, "machine_factor", lambda seconds: 1.2)
    for name, is_wide, status in (
        ("AVX512_SPR", True, "ok"),
        ("ARM_NEON", True, "ok"),
        ("NONE", False, "warn"),
    ):
        monkeypatch.setattr(machine, "instructions", lambda name=name, is_wide=is_wide: (name, is_wide))
        check = check_cpu(WELL)
        assert check.status == status and f"faiss uses {name}" in check.found and "1.2 times" in check.found
    monkeypatch.setattr(machine, "instructions", lambda: ("AVX2", True))
    monkeypatch.setattr(machine, "machine_factor", lambda seconds: 9.0)
    assert check_cpu(WELL).status == "warn"


# The data


def test_the_model_that_serves_must_have_made_the_vectors():
    assert check_model(WELL).status == "ok"
    other = replace(WELL, serving=replace(MADE_BY, weights_sha256="1" * 64, query_prompt="q: "))
    check = check_model(other)
    assert check.status == "fail"
    assert "differs in weights_sha256, query_prompt" in check.found and "encoder.model to m" in check.advice
    assert check_model(replace(WELL, is_encoder_down=True)).status == "fail"
    assert check_model(Subject(Settings(), Path("/nowhere"), None)).status == "ok"
    brought = replace(having(encoder=EncoderSettings(model="none", dim=768)), is_served=False)
    assert check_model(brought).status == "fail"  # texts were encoded, and the settings say nobody encodes


def test_vectors_that_clients_bring_must_be_as_long_as_the_settings_say():
    made_by = replace(MADE_BY, model="none", dim=768)
    subject = replace(
        having(made_by=made_by, encoder=EncoderSettings(model="none", dim=384)), is_served=False
    )
    check = check_model(subject)
    assert (check.status, check.found) == (
        "fail", "clients bring vectors of 768 dimensions; encoder.dim is 384",
    )  # fmt: skip
    assert "set encoder.model to none and encoder.dim to 768" in check.advice


@pytest.mark.parametrize(
    ("recalls", "points", "status", "told"),
    [
        (RECALL, [], "ok", ""),
        ({**RECALL, "8": 0.97}, [], "warn", ""),
        ({**RECALL, "4": 0.7, "8": 0.8}, [], "fail", ""),
        (RECALL, [("gauge", 120, 118)], "ok",
         "Live searches: 0.983 (0.941 to 0.995), 120 looked at, on 2026-11-20"),
        # Two days of live searches count together, and say more than the one before this one's evaluation.
        (RECALL, [("gauge", 900, 855), ("evaluation", 10, 10), ("gauge", 100, 95), ("evaluation", 200, 199)],
         "warn", "Live searches: 0.950 (0.935 to 0.962), 1,000 looked at, on 2026-11-20. An evaluation: 0.995 "
         "(0.972 to 0.999), 200 looked at, on 2026-11-20"),
        (RECALL, [("evaluation", 200, 100)], "fail",
         "An evaluation: 0.500 (0.431 to 0.569), 200 looked at, on 2026-11-20"),
    ],
)  # fmt: skip
def test_recall_is_that_of_the_rebuild_and_of_what_was_measured_since(recalls, points, status, told):
    evidence = {**EVIDENCE, "calibration": {**EVIDENCE["calibration"], "pool_recall": recalls}}
    measured = tuple(point(*each) for each in points)
    check = check_recall(replace(having(evidence=evidence), measured=measured))
    assert check.status == status
    assert check.found.startswith(f"{max(recalls['8'], recalls['4']):.3f} of the true 10 nearest")
    assert "1,000,000 passages; wanted are 0.99" in check.found
    assert check.found.partition("0.99")[2].partition(". ")[2] == told


def point(source, searches, in_pool):
    at = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()
    return RecallPoint(source, "live", at, at, searches, 10, in_pool, in_pool, 1_000_000, "{}")


def test_few_passages_need_no_measurement_and_many_do():
    assert check_recall(having(n_live=999, evidence={})).status == "ok"
    assert check_recall(having(evidence={})).status == "warn"


def test_damage_that_only_clients_can_mend_is_worse_than_damage_that_is_being_mended():
    assert check_damage(WELL).status == "ok"
    check = check_damage(having(n_damaged=7))
    assert (check.status, check.found.split()[0]) == ("warn", "7") and "being made again" in check.advice
    assert "Start the server" in check_damage(replace(having(n_damaged=7), is_served=False)).advice
    check = check_damage(having(n_damaged=7, lost=[f"d{i}" for i in range(7)]))
    assert check.status == "fail" and "'d0', 'd1', 'd2', 'd3', 'd4' and 2 more." in check.advice


def test_settings_that_say_something_else_than_the_data_are_told(monkeypatch):
    monkeypatch.setattr(collection, "room", lambda: Room(1024 * MIB, 900 * MIB, "the machine"))
    monkeypatch.setattr(collection, "limit_bytes", lambda: 1024 * MIB)
    assert check_settings(WELL).status == "ok"
    for subject, said in (
        (having(is_superseded=True, encoder=EncoderSettings(model="new")), "set it to new"),
        (set_to(vector_dtype="float32"), "index.vector_dtype is float32, and the stored vectors are float16"),
        (set_to(memory_budget="600MiB"), "index.memory_budget is 600 MiB, more than half of the 1,024 MiB"),
        (set_to(target_recall=0.9), "made for other settings"),
        (set_to(memory_budget="60MiB"), "the codes take 69 MiB, more than index.memory_budget"),
    ):
        check = check_settings(subject)
        assert (check.status, check.found) == ("warn", "1 to look at") and said in check.advice, said


# For real


def run_doctor(data_dir, *options, **settings):
    return called(data_dir, "doctor", *options, **{**NO_MODEL, **settings})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A data directory that a server has filled, what it said, and what the command said of it."""
    data_dir = tmp_path_factory.mktemp("doctor") / "data"
    vectors = np.random.default_rng(5).standard_normal((1200, 32)).tolist()
    with serving(data_dir, **NO_MODEL, server__api_key="k", server__read_key="r") as server:
        documents = [{"id": f"d{i}", "vector": vector} for i, vector in enumerate(vectors)]
        server.http.post(
            "/documents", json={"documents": documents}, headers={"api-key": "k"}
        ).raise_for_status()
        answer = server.http.get("/doctor", headers={"api-key": "r"})
        asked = run_doctor(data_dir, "--url", server.url, "--api-key", "r")
        refused = run_doctor(data_dir, "--url", server.url)
        beside = run_doctor(data_dir, "--json")  # port 0: it can't know where the server listens
        server.stop()
    return data_dir, answer, asked, refused, beside


def test_a_server_tells_how_it_is(run):
    _, answer, *_ = run
    assert answer.status_code == 200
    told = answer.json()
    assert [each["name"] for each in told["checks"]] == NAMES
    assert told["ok"] is True
    checks = {each["name"]: each for each in told["checks"]}
    assert checks["model"]["found"] == "clients bring vectors of 32 dimensions"
    assert all(each["advice"] for each in told["checks"] if each["status"] != "ok")
    assert checks["damage"]["status"] == "ok"


def test_the_command_asks_the_server_or_looks_by_itself(run, tmp_path):
    data_dir, _, asked, refused, beside = run
    assert asked.code == 0, asked.err
    lines = asked.out.splitlines()
    assert lines[0].startswith("As the server at http://127.0.0.1:")
    assert [line.split()[1] for line in lines[1:-1] if not line.startswith(" ")] == NAMES
    assert lines[-1] == "All is well." or lines[-1].startswith("0 failures, ")
    assert refused.code == 2 and "--api-key" in refused.err
    told = json.loads(beside.out)
    assert beside.code == 0 and told["server"] is None and told["ok"] is True
    empty = json.loads(run_doctor(tmp_path / "nothing", "--json").out)
    assert {each["name"]: each["found"] for each in empty["checks"]}["model"] == "nothing is stored yet"
    assert not (tmp_path / "nothing").exists()
    wrong = run_doctor(data_dir, encoder__dim=16)
    assert wrong.code == 1 and "encoder.model" in wrong.out


def test_vectors_that_are_missing_are_found_without_a_server(run):
    data_dir = run[0]
    settings = Settings.model_validate({"data_dir": data_dir, "encoder": {"model": "none", "dim": 32}})
    assert stored(settings).data.n_damaged == 0
    vectors = data_dir / "collections" / "default" / "vectors-0001.f16"
    os.truncate(vectors, vectors.stat().st_size - 2 * 64)
    subject = stored(settings)
    assert (subject.data.n_damaged, subject.data.lost) == (2, ["d1198", "d1199"])
    done = run_doctor(data_dir)
    assert done.code == 1
    assert "FAIL  damage" in done.out and "'d1198', 'd1199'" in done.out


@pytest.mark.parametrize("number", range(1, FORMAT_VERSION))
def test_data_of_an_earlier_version_are_looked_at_before_the_first_start_and_left_alone(number, tmp_path):
    shutil.copytree(GOLDEN / f"format-{number}", tmp_path, dirs_exist_ok=True)
    catalog = tmp_path / "collections/default/catalog.sqlite3"
    before = catalog.read_bytes()
    done = called(tmp_path, "doctor", "--json", **NO_MODEL)
    told = {each["name"]: each for each in json.loads(done.out)["checks"]}
    assert (done.code, told["model"]["status"], told["damage"]["status"]) == (0, "ok", "ok")
    assert told["model"]["found"].startswith("clients bring vectors of 32 dimensions")
    assert catalog.read_bytes() == before
    os.truncate(catalog.with_name("vectors-0001.f16"), 30 * 64)
    done = called(tmp_path, "doctor", **NO_MODEL)
    assert done.code == 1 and "11 vectors are missing or damaged" in done.out


def test_vectors_without_a_catalog_are_no_empty_collection(tmp_path):
    shutil.copytree(GOLDEN / "format-1", tmp_path, dirs_exist_ok=True)
    (tmp_path / "collections/default/catalog.sqlite3").unlink()
    done = called(tmp_path, "doctor", **NO_MODEL)
    assert done.code == 2 and "is missing or empty, but vectors-0001.f16 lies there" in done.err
    assert "Put back a backup" in done.err


@contextlib.contextmanager
def another_user():
    """Without root's rights; where the tests have none, a folder of mode 0 is as good."""
    was_root = os.geteuid() == 0
    if was_root:
        try:
            os.seteuid(65534)
        except OSError:
            pytest.skip("there is no user but root in this namespace")
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)


def test_data_that_this_user_may_not_read_are_named(tmp_path):
    shutil.copytree(GOLDEN / "format-1", tmp_path / "data")
    (tmp_path / "data").chmod(0)
    settings = Settings(data_dir=tmp_path / "data")
    with another_user():
        for look in (lambda: stored(settings), lambda: verify(settings.data_dir, lambda *_: None)):
            with pytest.raises(StorageError, match="collections/default: Permission denied"):
                look()
    (tmp_path / "data").chmod(0o700)


def test_who_holds_a_data_directory_is_told(tmp_path):
    assert lock_holder(tmp_path / "lock") is None
    with DirectoryLock(tmp_path / "lock"):
        assert lock_holder(tmp_path / "lock") == str(os.getpid())
    assert lock_holder(tmp_path / "lock") is None
