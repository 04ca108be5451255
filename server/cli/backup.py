"""`twopass backup` and `twopass restore`."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.app import app
from server.cli.sharing import (
    INCOMPLETE,
    INTERRUPTED,
    LOCAL_SERVER,
    UNREADABLE,
    ApiKey,
    AsJson,
    Config,
    DataDir,
    Url,
    connected,
    echo,
    fail,
    place_of,
)
from server.printing import backup_lines, size
from server.progress import work_progress

if TYPE_CHECKING:
    from server.backups.manifest import Manifest
    from server.client import Client

JOB_POLL_S = 0.25  # between two looks at the job

Replace = Annotated[bool, typer.Option("--replace", help="Even if there is something under that name.")]


@app.command(
    short_help="Write texts, metadata and vectors into one file.",
    epilog="""\b
Examples
  twopass backup twopass-$(date +%F).tar
  twopass backup /mnt/usb/twopass.tar --replace
  twopass backup twopass.tar --data-dir ~/search     (no server is running there)

Exit code: 0 if the backup is written and checked, 1 if it could not be made, 2 if the server could not be reached or
refused, 130 after Ctrl-C.""",
)
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; a tar file.", show_default=False)],
    data_dir: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Data that no server is running on; instead of asking a server."),
    ] = None,
    replace: Replace = False,
    as_json: AsJson = False,
    url: Url = LOCAL_SERVER,
    api_key: ApiKey = "",
) -> None:
    """Back up a running server, which goes on meanwhile; or, with --data-dir, data that no server is running on.

    The file holds everything as it was at one moment, and appears under its name when it is whole. What was there is
    only replaced by a whole one.
    """
    place = place_of(file)
    if file.exists() and not replace:
        fail(f"{file} exists already.", "Choose another name, or add --replace.", INCOMPLETE)
    from index.errors import DiskFullError, IndexFault, LockedError, StorageError
    from server.errors import ServiceError, answer_for

    try:
        if data_dir is None:
            with connected(url, api_key) as client:
                manifest = of_server(client, place)
        else:
            manifest = of_folder(data_dir, place)
    except LockedError as error:
        fail(str(error), "Leave --data-dir out: then that server makes the backup.", INCOMPLETE)
    except DiskFullError as error:
        fail(str(error), "There is no backup. Free some room, or choose another disk.", INCOMPLETE)
    except StorageError as error:
        fail(str(error), "" if data_dir is None else UNREADABLE, INCOMPLETE)
    except (IndexFault, ServiceError) as error:
        answer = answer_for(error)
        fail(str(error), getattr(error, "hint", None) or (answer.hint if answer else ""), INCOMPLETE)
    except KeyboardInterrupt:
        typer.echo("Interrupted. There is no backup.")
        raise typer.Exit(INTERRUPTED) from None
    tell(manifest, file, as_json)


def of_server(client: "Client", file: Path) -> "Manifest":
    """Have a server make a backup, fetch it, and have the server delete its own copy."""
    from index.durable import make_folder

    make_folder(file.parent)
    job = client.back_up()
    try:
        with work_progress("bytes") as on_progress:
            while job["status"] in ("waiting", "running"):
                on_progress(job["stage"], job["progress"]["done"], job["progress"]["total"])
                time.sleep(JOB_POLL_S)
                job = client.job(job["id"])
            if job["result"] is None:
                fail(f"The server made no backup: {job['error'] or job['status']}.", "", INCOMPLETE)
            return fetched(client, job["result"]["name"], job["result"]["bytes"], file, on_progress)
    except KeyboardInterrupt:
        if job["status"] in ("waiting", "running"):
            client.control_job(job["id"], "cancel")
        raise
    finally:
        if job["result"] is not None:
            client.delete_snapshot(job["result"]["name"])


def fetched(client: "Client", name: str, n_bytes: int, file: Path, on_progress: Any) -> "Manifest":
    """Download a backup and check it; only then it gets its name."""
    from index.durable import check_room, write_atomically
    from server.backups.reading import check_backup

    check_room(file.parent, n_bytes, "the backup")
    manifests: list[Manifest] = []

    def write(beside: Path) -> None:
        done = 0

        def on_bytes(n: int) -> None:
            nonlocal done
            done += n
            on_progress("downloading", done, n_bytes)

        with beside.open("wb") as into:
            client.download_snapshot(name, into, on_bytes)
        manifests.append(check_backup(beside, on_progress))

    write_atomically(file, write)
    return manifests[0]


def of_folder(data_dir: Path, file: Path) -> "Manifest":
    """Back up data that no server is running on."""
    from index.durable import DirectoryLock, make_folder
    from server.backups.restoring import COLLECTION, settle
    from server.backups.writing import write_backup
    from server.catalog import Catalog
    from server.errors import NotFoundError
    from server.store import CATALOG_NAME

    path = data_dir / "collections" / COLLECTION / CATALOG_NAME
    if not data_dir.is_dir():
        raise NotFoundError(f"there is no folder {data_dir}", "Check --data-dir.")
    with DirectoryLock(data_dir / "lock"):
        settle(data_dir / "collections")
        if not path.exists():
            raise NotFoundError(f"there is no collection in {data_dir}", "Check --data-dir.")
        make_folder(file.parent)
        with Catalog(path, read_only=True) as catalog, work_progress("bytes") as on_progress:
            manifest = write_backup(catalog, file, lambda: False, on_progress)
    assert manifest is not None  # nothing stops it
    return manifest


def tell(manifest: "Manifest", file: Path, as_json: bool) -> None:
    n_bytes = file.stat().st_size
    if as_json:
        typer.echo(json.dumps({"file": str(file), "bytes": n_bytes, **manifest.told()}, ensure_ascii=False))
    else:
        typer.echo(f"{file}: {size(n_bytes)}")
        echo(backup_lines(manifest.told()))


@app.command(
    short_help="Make a backup the data of a server.",
    epilog="""\b
Examples
  twopass restore twopass.tar --data-dir ~/search
  twopass restore twopass.tar --replace     (what is there is moved aside, not deleted)

Exit code: 0 if it is restored, 1 if the backup is damaged, there is something already, or a server is running there;
nothing has changed then.""",
)
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup.", show_default=False)],
    config: Config = None,
    data_dir: DataDir = None,
    replace: Replace = False,
    as_json: AsJson = False,
) -> None:
    """Put a backup where a server keeps its data. No server may be running there.

    The whole backup is checked before anything else changes. The first pass is made anew when the server starts.
    """
    from index.errors import DiskFullError, IndexFault, LockedError, StorageError
    from server.backups.restoring import restore as put_back
    from server.errors import ServiceError, answer_for
    from server.settings import SettingsError, load_settings

    try:
        settings = load_settings(config, options={} if data_dir is None else {"data_dir": data_dir})
        with work_progress("bytes") as on_progress:
            restored = put_back(file, settings.data_dir, replace, on_progress)
    except SettingsError as error:
        fail(str(error), "Correct this and run it again; config.yaml explains every setting.", INCOMPLETE)
    except LockedError as error:
        fail(str(error), "Stop that server, or name another folder with --data-dir.", INCOMPLETE)
    except DiskFullError as error:
        fail(str(error), "Nothing was changed. Free some room and run it again.", INCOMPLETE)
    except StorageError as error:
        fail(str(error), f"Nothing was changed. {UNREADABLE}", INCOMPLETE)
    except (ServiceError, IndexFault) as error:
        answer = answer_for(error)
        fail(str(error), getattr(error, "hint", None) or (answer.hint if answer else ""), INCOMPLETE)
    if as_json:
        aside = None if restored.aside is None else str(restored.aside)
        told = {"folder": str(restored.folder), "aside": aside, **restored.manifest.told()}
        typer.echo(json.dumps(told, ensure_ascii=False))
        return
    typer.echo(f"Restored into {restored.folder}")
    echo(backup_lines(restored.manifest.told()))
    if restored.aside is not None:
        typer.echo(f"What was there is now in {restored.aside}; delete it when you don't need it any more.")
