"""The statements that find what a filter matches: documents and rows."""

import json
import sqlite3
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.catalog.changes import Change
from server.catalog.filter_sql import Compiler
from server.catalog.selections import RowSelection, reselect, select
from server.conditions import Filter

SCAN = "FROM documents INDEXED BY documents_metadata WHERE"
FEW = 100  # documents that are sooner looked up and sorted than met on a way through all ids


def matching_rows(connection: sqlite3.Connection, generation: int, wanted: Filter) -> RowSelection:
    """Return the rows of a generation whose documents match."""
    statement, bound = rows_statement(connection, generation, wanted)
    return select(_numbers(connection, statement, bound), _n_rows(connection, generation))


def rows_statement(connection: sqlite3.Connection, generation: int, wanted: Filter) -> tuple[str, list[Any]]:
    """Return the statement that finds those rows, and what is bound in it."""
    compiler = Compiler(built_indexes(connection))
    condition = compiler.sql(wanted.condition)
    if compiler.reads_metadata:
        condition = f"number IN (SELECT number {SCAN} {condition})"
    return (
        "SELECT group_concat(row) FROM (SELECT row, document AS number FROM passages "
        f"WHERE generation = {compiler.bind(generation)}) WHERE {condition}"
    ), compiler.bind.values


def follow(
    connection: sqlite3.Connection, generation: int, wanted: Filter, selection: RowSelection, change: Change
) -> RowSelection:
    """Bring a selection up to date; only the documents that changed are looked at again."""
    compiler = Compiler()  # on their JSON: an index would have to list all of its matches first
    changed = f"(SELECT value FROM json_each({compiler.bind(json.dumps(change.documents))}))"
    statement = (
        f"SELECT group_concat(row) FROM passages WHERE generation = {compiler.bind(generation)} "
        f"AND document IN {changed}"
    )
    theirs = _numbers(connection, statement, list(compiler.bind.values))
    matching = f"SELECT number {SCAN} number IN {changed} AND {compiler.sql(wanted.condition)}"
    into = _numbers(connection, f"{statement} AND document IN ({matching})", compiler.bind.values)
    dead = change.dead.get(generation, np.empty(0, np.int64))
    return reselect(selection, np.concatenate((dead, theirs)), into, _n_rows(connection, generation))


def matching_ids(connection: sqlite3.Connection, wanted: Filter, limit: int, after: str) -> list[str]:
    """Return up to `limit` ids of matching documents whose id sorts behind `after` (bytewise), in id order."""
    indexed = built_indexes(connection)
    compiler = Compiler(indexed)
    condition = compiler.sql(wanted.condition)
    if compiler.reads_metadata:
        condition = f"EXISTS (SELECT 1 {SCAN} number = page.number AND {condition})"
    else:
        numbers = connection.execute(
            f"SELECT number {SCAN} {condition} LIMIT {FEW + 1}", compiler.bind.values
        )
        few = [number for (number,) in numbers]
        if len(few) <= FEW:
            found = connection.execute(
                "SELECT id FROM documents WHERE number IN (SELECT value FROM json_each(?)) AND +id > ? "
                "ORDER BY id LIMIT ?",
                (json.dumps(few), after, limit),
            )
            return [identifier for (identifier,) in found]
        compiler = Compiler(indexed, "+number")
        condition = compiler.sql(wanted.condition)
    # Through the ids in their order until there are enough: never through the texts, which lie between the ids.
    found = connection.execute(
        f"SELECT id FROM documents AS page WHERE id > {compiler.bind(after)} AND {condition} "
        f"ORDER BY id LIMIT {compiler.bind(limit)}",
        compiler.bind.values,
    )
    return [identifier for (identifier,) in found]


def n_matching(connection: sqlite3.Connection, wanted: Filter) -> int:
    """Return how many documents match."""
    compiler = Compiler(built_indexes(connection))
    statement = f"SELECT count(*) {SCAN} {compiler.sql(wanted.condition)}"
    (found,) = connection.execute(statement, compiler.bind.values).fetchone()
    return int(found)


def built_indexes(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the numbers of the indexes that can be used, by path."""
    return dict(connection.execute("SELECT path, number FROM metadata_indexes WHERE is_built").fetchall())


def _numbers(connection: sqlite3.Connection, statement: str, bound: list[Any]) -> NDArray[np.int64]:
    """Run a statement that joins whole numbers to one text: (n,). Row by row they took three times as long."""
    (text,) = connection.execute(statement, bound).fetchone()
    return np.fromstring(text or "", np.int64, sep=",")


def _n_rows(connection: sqlite3.Connection, generation: int) -> int:
    found = connection.execute("SELECT n_rows FROM generations WHERE number = ?", (generation,)).fetchone()
    return found[0] if found else 0
