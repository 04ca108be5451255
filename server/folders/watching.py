"""When something in a folder may have changed: told by the kernel, or looked for now and then.

What has changed is not asked here: whoever waits looks at the whole folder, so that nothing is missed that the kernel
forgot to tell, and nothing goes wrong where it tells too much.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from watchfiles import Change, watch

from server.folders.ignoring import GITS, OWN

POLL_S = 10.0  # between two looks where the kernel tells nothing
RESCAN_S = 300.0  # between two looks where it does: it may have lost something, or the folder was made anew
TICK_MS, STEP_MS, GATHER_MS = (
    250,
    100,
    1600,
)  # looks at the clock; quiet that ends a burst of changes; its longest

NETWORK = frozenset((
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "afs", "ceph", "glusterfs", "davfs", "fuse.sshfs",
    "fuse.rclone", "fuse.glusterfs", "fuse.davfs2", "fuse.s3fs", "drvfs", "vboxsf", "fuse.vmhgfs-fuse",
))  # fmt: skip
"""File systems on which others change files and the kernel here isn't told."""

MOUNTS = Path("/proc/self/mounts")


class Changes:
    """Waits for changes in some folders, from the moment on that this is made."""

    def __init__(
        self, folders: Sequence[Path], poll_s: float | None, tell: Callable[[str], None] = lambda why: None
    ) -> None:
        """Begin to watch.

        Args:
            poll_s: look every so many seconds instead of asking the kernel; None: only where it wouldn't know.
            tell: called with the reason where it doesn't.
        """
        self._folders = [str(folder) for folder in folders]
        self._told: Iterator[set[tuple[Change, str]]] | None = None
        self._longest_s = RESCAN_S
        if poll_s is None and (remote := next(filter(is_remote, folders), None)):
            tell(f"{remote} lies on a network file system: looking for changes every {POLL_S:g} s.")
            poll_s = POLL_S
        if poll_s is None:
            try:
                self._told = watch(
                    *self._folders, watch_filter=self._is_wanted, debounce=GATHER_MS, step=STEP_MS,
                    rust_timeout=TICK_MS, yield_on_timeout=True, force_polling=False, ignore_permission_denied=True,
                )  # fmt: skip
                next(self._told)  # it begins to watch when it is first asked
            except OSError as error:
                self._told = None
                poll_s = POLL_S
                tell(f"The kernel can't watch all of it ({error}): looking for changes every {POLL_S:g} s.")
        if poll_s is not None:
            self._longest_s = poll_s

    def wait(self, at_most_s: float | None = None) -> None:
        """Return when something may have changed, and at the latest after a time that is given.

        Raises:
            KeyboardInterrupt: Ctrl-C.
        """
        longest_s = self._longest_s if at_most_s is None else min(at_most_s, self._longest_s)
        if self._told is None:
            time.sleep(longest_s)
            return
        until = time.monotonic() + longest_s
        while not next(self._told) and time.monotonic() < until:
            pass

    def close(self) -> None:
        """Stop watching."""
        self._told = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _is_wanted(self, change: Change, path: str) -> bool:
        """Say whether a change could matter: nothing that is hidden does, but for the files of patterns."""
        root = max((each for each in self._folders if path.startswith(each)), key=len, default="")
        *folders, name = path[len(root) :].strip("/").split("/")
        return not any(each.startswith(".") for each in folders) and (
            not name.startswith(".") or name in (GITS, OWN)
        )


def is_remote(folder: Path, mounts: Path = MOUNTS) -> bool:
    """Say whether a folder lies on a file system that others may change from elsewhere."""
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return False
    kinds = {}
    for line in lines:
        _, point, kind, *_ = line.split(" ")
        kinds[Path(point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))] = kind
    here = folder.resolve()
    return next((kinds[each] in NETWORK for each in (here, *here.parents) if each in kinds), False)
