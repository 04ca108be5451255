"""The tables, and the steps that lead an older catalog to them."""

FORMAT_VERSION = 2

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) STRICT;
CREATE TABLE generations (
    number       INTEGER PRIMARY KEY,
    fingerprint  TEXT NOT NULL,      -- the encoder's, as JSON
    dim          INTEGER NOT NULL,
    vector_dtype TEXT NOT NULL,      -- float16 or float32
    n_rows       INTEGER NOT NULL,   -- committed rows of its vector file
    encoder      TEXT,               -- the encoder's settings, as JSON; NULL: as the settings have it
    replaces     TEXT,               -- the encoder's settings that stood in the configuration when it was begun
    retired_at   REAL                -- seconds since 1970, UTC: when another took its place; NULL: not yet
) STRICT;
CREATE TABLE documents (
    number       INTEGER PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    text         TEXT,               -- NULL: the client brought a vector alone
    metadata     TEXT NOT NULL,      -- a JSON object
    content_hash BLOB NOT NULL,      -- SHA-256 of what was encoded: the text, the client's vector, or both
    own_vector   INTEGER NOT NULL,   -- 1: the client brought the vector, so it can't be encoded again
    created_at   REAL NOT NULL,      -- seconds since 1970, UTC
    updated_at   REAL NOT NULL
) STRICT;
CREATE TABLE passages (
    generation   INTEGER NOT NULL REFERENCES generations,
    row          INTEGER NOT NULL,   -- its vector's row in the generation's vector file
    document     INTEGER NOT NULL REFERENCES documents,
    start        INTEGER NOT NULL,   -- characters of the document's text, [start, end)
    "end"        INTEGER NOT NULL,
    checksum     INTEGER NOT NULL,   -- CRC-32 of the row's bytes in the vector file
    damaged      INTEGER NOT NULL DEFAULT 0,  -- 1: a start found the row lost; it waits to be made again
    PRIMARY KEY (generation, row)
) STRICT, WITHOUT ROWID;
CREATE INDEX passages_by_document ON passages (document);
CREATE TABLE jobs (
    id           TEXT PRIMARY KEY,
    type         TEXT NOT NULL,      -- ingest or reembed
    status       TEXT NOT NULL,      -- waiting, running, paused, done, failed or cancelled
    done         INTEGER NOT NULL,
    total        INTEGER NOT NULL,
    wishes       TEXT NOT NULL,      -- what was asked for, as a JSON object
    result       TEXT,               -- what came of it, as a JSON object
    error        TEXT,
    created_at   REAL NOT NULL       -- seconds since 1970, UTC
) STRICT;
CREATE TABLE inbox (
    number       INTEGER PRIMARY KEY AUTOINCREMENT,  -- in the order of arrival
    job          TEXT NOT NULL REFERENCES jobs,
    id           TEXT NOT NULL,      -- the document's
    text         TEXT,
    metadata     TEXT NOT NULL,      -- a JSON object
    vector       BLOB                -- little-endian float32, as the client brought it; NULL: to be encoded
) STRICT;
CREATE INDEX inbox_by_job ON inbox (job);
CREATE INDEX inbox_by_id ON inbox (id);
"""

# The statements that lead from this format to the next.
MIGRATIONS = {
    1: """
ALTER TABLE generations ADD COLUMN encoder TEXT;
ALTER TABLE generations ADD COLUMN replaces TEXT;
ALTER TABLE generations ADD COLUMN retired_at REAL;
CREATE TABLE jobs (
    id           TEXT PRIMARY KEY,
    type         TEXT NOT NULL,
    status       TEXT NOT NULL,
    done         INTEGER NOT NULL,
    total        INTEGER NOT NULL,
    wishes       TEXT NOT NULL,
    result       TEXT,
    error        TEXT,
    created_at   REAL NOT NULL
) STRICT;
CREATE TABLE inbox (
    number       INTEGER PRIMARY KEY AUTOINCREMENT,
    job          TEXT NOT NULL REFERENCES jobs,
    id           TEXT NOT NULL,
    text         TEXT,
    metadata     TEXT NOT NULL,
    vector       BLOB
) STRICT;
CREATE INDEX inbox_by_job ON inbox (job);
CREATE INDEX inbox_by_id ON inbox (id);
""",
}
