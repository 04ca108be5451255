"""Large files of the hub, gone on with where an earlier fetch stopped; and how far a fetch is.

huggingface_hub 2.4 begins each file anew with every process (its issue 4196). So the weights come first, into a file of
our own beside the blobs of its cache; whole, it becomes the blob, and huggingface_hub finds it there.
"""

import re
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from index.durable import DirectoryLock, make_folder, write_atomically

OnBytes = Callable[[int, int], None]  # bytes done, and those to come in all
TAG = re.compile(r"[0-9a-f]{40,64}")  # names a blob; what else a hub says there is left to huggingface_hub
RESUMED_BYTES = 10_000_000  # of smaller files nothing is kept; they take seconds


class Meter:
    """Counts what several threads fetch, and tells it, one thread at a time."""

    def __init__(self, on_bytes: OnBytes) -> None:
        self._on_bytes = on_bytes
        self._done = self._total = 0
        self._counting = threading.Lock()

    def expect(self, n_bytes: int) -> None:
        self._total = n_bytes

    def add(self, n_bytes: int) -> None:
        with self._counting:
            self._done += n_bytes
            self._on_bytes(self._done, max(self._done, self._total))


def fetch_large(
    repository: str,
    home: Path,
    revision: str | None,
    endpoint: str | None,
    patterns: tuple[list[str], list[str]],
    meter: Meter,
) -> None:
    """Bring the large files of a model into `home`, its folder in the cache, as blobs.

    Args:
        revision: a commit; None: the newest.
        patterns: names to take, and of those the ones to leave.

    Raises:
        LockedError: another process does the same.
        Exception: whatever huggingface_hub and the network raise; what came so far is kept.
    """
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported by its __getattr__
        build_hf_headers,
        filter_repo_objects,
    )

    info = HfApi(endpoint=endpoint).model_info(repository, revision=revision or "main", files_metadata=True)
    take, leave = patterns
    files = list(
        filter_repo_objects(
            info.siblings or [], allow_patterns=take, ignore_patterns=leave, key=lambda file: file.rfilename
        )
    )
    meter.expect(sum(file.size or 0 for file in files))
    large = [file for file in files if (file.size or 0) >= RESUMED_BYTES]
    if not large:
        return
    blobs = home / "blobs"
    make_folder(blobs)
    with DirectoryLock(home / "fetching.lock"):  # two processes would write into one file
        for file in large:
            url = hf_hub_url(repository, file.rfilename, revision=info.sha, endpoint=endpoint)
            metadata = get_hf_file_metadata(url, endpoint=endpoint)
            tag = metadata.etag or ""
            if not TAG.fullmatch(tag):
                continue
            if (blobs / tag).exists():
                meter.add(file.size or 0)
                continue
            partial = blobs / f"{tag}.partial"
            if metadata.size is not None and partial.exists() and partial.stat().st_size > metadata.size:
                partial.unlink()  # not what this process's forerunner wrote
            with partial.open("ab") as opened:
                http_get(
                    url,
                    opened,
                    resume_size=opened.tell(),
                    headers=build_hf_headers(),
                    expected_size=metadata.size,
                    tqdm_class=bar_of(meter),
                )
            _put_in_place(partial, blobs / tag)


def _put_in_place(partial: Path, blob: Path) -> None:
    def move(beside: Path) -> None:
        partial.replace(beside)

    write_atomically(blob, move)


def bar_of(meter: Meter, only: str = "") -> Any:
    """A class that huggingface_hub takes for tqdm: the bars that it makes of it count into `meter`.

    Only those whose description begins with `only`: a snapshot has a bar for the bytes that are received, one for those
    that are written, and one for files.
    """

    class Bar:
        def __init__(self, *args: object, **options: Any) -> None:
            self.n, self.total = 0, int(options.get("total") or 0)
            self.format_dict: dict[str, float] = {}  # where tqdm keeps its rate
            self._counts = str(options.get("desc", "")).startswith(only)
            self.update(options.get("initial"))

        def update(self, n: float | None = 1) -> None:
            self.n += int(n or 0)
            if self._counts and n:
                meter.add(int(n))

        def ignore(self, *args: object, **options: object) -> None: ...

        refresh = close = set_postfix_str = set_description = set_description_str = ignore

        def __enter__(self) -> Self:
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None: ...

    return Bar
