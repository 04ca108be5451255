"""`twopass key`."""

from typing import Annotated

import typer

from server.cli.app import app
from server.cli.sharing import FAILED, Config, DataDir, fail


@app.command(
    short_help="Make another key, or say where the key comes from.",
    epilog="""\b
Examples
  twopass key
  twopass key --new --data-dir ~/search

Exit code: 0, or 2 if the settings or the data directory can't be used.""",
)
def key(
    config: Config = None,
    data_dir: DataDir = None,
    new: Annotated[bool, typer.Option("--new", help="Make a key and print it; an earlier one ends.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Forget the key that was made here.")] = False,
) -> None:
    """Make another key, or say where the server's key comes from.

    A running server takes the change up when it is started again. A key in the settings, server.api_key or
    server.api_key_file, wins over one that was made here.
    """
    from index.durable import make_folder
    from index.errors import IndexFault
    from server.errors import StartupError
    from server.keys import HASH_NAME, make_key, remove_key, set_keys, stored_hash
    from server.settings import SettingsError, load_settings

    if new and remove:
        fail("--new and --remove don't go together.", "", FAILED)
    try:
        settings = load_settings(config, options={} if data_dir is None else {"data_dir": data_dir})
        is_set = set_keys(settings.server)[0] is not None
        if new:
            make_folder(settings.data_dir)
            typer.echo(make_key(settings.data_dir))
        elif remove:
            was_there = remove_key(settings.data_dir)
            typer.echo("The key is forgotten." if was_there else "There was no key.")
        else:
            path = settings.data_dir / HASH_NAME
            made = f"The key that was made here; its hash is in {path}."
            none = "No key is set, and none was made. The server makes one where other machines can reach it."
            in_settings = "The key of the settings, server.api_key or server.api_key_file."
            typer.echo(in_settings if is_set else made if stored_hash(settings.data_dir) else none)
    except SettingsError as error:
        fail(str(error), "Correct this and run it again; config.yaml explains every setting.", FAILED)
    except StartupError as error:
        fail(str(error), error.hint or "", FAILED)
    except IndexFault as error:
        fail(str(error), "", FAILED)
    if new or remove:
        typer.echo("A running server takes this up when it is started again.", err=True)
        if is_set:
            typer.echo("The settings have a key, which wins over one that was made here.", err=True)
