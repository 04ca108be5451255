"""The `twopass` command.

`serve`, `restore`, `verify`, `doctor`, `key`, `plan`, `demo` and `models` work on this machine; the others speak HTTP
to a running server. What is slow to import (the model's library, faiss, the web framework) is imported inside the
command that needs it, so that `--help` and the client commands answer at once.
"""

# In the order of --help.
from server.cli import serving, ingest, search, jobs, indexing, evaluate, reembed  # noqa: F401, I001
from server.cli import backup, exchange, local, doctor, key, models  # noqa: F401
from server.cli.app import app, main

__all__ = ["app", "main"]
