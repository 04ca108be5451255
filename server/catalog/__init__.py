"""The catalog: documents, passages, generations and jobs in SQLite. The only importer of sqlite3."""

from server.catalog.catalog import Catalog

__all__ = ["Catalog"]
