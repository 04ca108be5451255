"""Old processors: home servers run some without AVX, where programs built for newer ones die of an illegal instruction.

The real server under an emulator that has no more than such a processor: Debian's qemu-user.
"""

import shutil
import sys

import pytest

QEMU = shutil.which("qemu-x86_64")
PROCESSOR = "Westmere-v2"  # of 2010: SSE4.2, no AVX


@pytest.mark.faults
@pytest.mark.skipif(QEMU is None, reason="Debian's qemu-user isn't installed")
def test_ingest_and_search_work_on_a_processor_without_avx(tmp_path, serve):
    old = tmp_path / "python"
    old.write_text(f"""#!/bin/sh
exec {QEMU} -cpu {PROCESSOR} {sys.executable} "$@"
""")
    old.chmod(0o755)
    texts = ["The tide came in over the flats.", "Invoices of the year 2020", "How to mend a bicycle tyre"]
    with serve(tmp_path / "data", python=old) as server:
        server.http.timeout = 280
        put = server.http.post("/documents", json={"documents": [{"text": text} for text in texts]})
        assert put.status_code == 201, put.text
        for query, expected in (
            ("high water at the sea", 0),
            ("bills from two years ago", 1),
            ("a flat wheel", 2),
        ):
            answer = server.http.post("/search", json={"query": query, "hybrid": False}).json()
            assert answer["hits"][0]["text"] == texts[expected]
        doctor = server.http.get("/doctor").json()
        [processor] = [each for each in doctor["checks"] if "AVX2" in str(each)]
        assert processor["status"] != "ok"
        assert server.stop() == 0
