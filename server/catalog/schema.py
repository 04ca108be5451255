"""The tables, and the steps that lead an older catalog to them."""

from server.catalog.words import TOKENIZER

FORMAT_VERSION = 2

# The index keeps the words alone; where it needs a text again (to take a document out, to be made anew), it reads it
# here. `spaced` is ours: see words.py. The triggers keep it in step whoever writes.
FULL_TEXT = f"""
CREATE VIEW searchable AS SELECT number, spaced(text) AS text FROM documents WHERE text IS NOT NULL;
CREATE VIRTUAL TABLE fulltext USING fts5 (
    text, content = 'searchable', content_rowid = 'number', tokenize = '{TOKENIZER}'
);
CREATE TRIGGER fulltext_added AFTER INSERT ON documents WHEN new.text IS NOT NULL
    BEGIN INSERT INTO fulltext (rowid, text) VALUES (new.number, spaced(new.text)); END;
CREATE TRIGGER fulltext_removed AFTER DELETE ON documents WHEN old.text IS NOT NULL
    BEGIN INSERT INTO fulltext (fulltext, rowid, text) VALUES ('delete', old.number, spaced(old.text)); END;
CREATE TRIGGER fulltext_changed AFTER UPDATE OF text ON documents WHEN old.text IS NOT new.text
    BEGIN INSERT INTO fulltext (fulltext, rowid, text)
    SELECT 'delete', old.number, spaced(old.text) WHERE old.text IS NOT NULL; INSERT INTO fulltext (rowid, text)
    SELECT new.number, spaced(new.text) WHERE new.text IS NOT NULL; END;
"""

SCHEMA = (
    """
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
-- The metadata once more, without the texts: over 100 000 documents of 1 KB a filter takes 0.2 s here, not 0.5 s.
CREATE INDEX documents_metadata ON documents (number, metadata);
CREATE TABLE metadata_indexes (
    number       INTEGER PRIMARY KEY AUTOINCREMENT,
    path         TEXT NOT NULL UNIQUE,
    is_built     INTEGER NOT NULL    -- 1: every document is in it
) STRICT;
CREATE TABLE metadata_values (
    path         INTEGER NOT NULL,   -- the number of an index
    kind         INTEGER NOT NULL,   -- see metadata_values.py
    member       INTEGER NOT NULL,   -- 1: an item of the list that stands there
    value        ANY NOT NULL,
    document     INTEGER NOT NULL,
    PRIMARY KEY (path, kind, member, value, document)
) STRICT, WITHOUT ROWID;
CREATE INDEX metadata_values_by_document ON metadata_values (document);
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
    status       TEXT NOT NULL,      -- receiving, waiting, running, paused, done, failed or cancelled
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
    + FULL_TEXT
)

# Made with its first row (recall_table.py), not with the others: a catalog of before has it as soon as it needs it, and
# a full disk keeps none from being opened.
RECALL_POINTS = """
CREATE TABLE IF NOT EXISTS recall_points (
    number       INTEGER PRIMARY KEY,  -- in the order in which they were begun
    source       TEXT NOT NULL,      -- gauge or evaluation
    queries      TEXT NOT NULL,      -- live, stored or given
    began_at     REAL NOT NULL,      -- seconds since 1970, UTC: when the first of the searches was made again
    ended_at     REAL NOT NULL,      -- the last of them
    searches     INTEGER NOT NULL,
    k            INTEGER,            -- nearest that were to be found; NULL: as many as each search asked for
    in_pool      REAL NOT NULL,      -- the sum, over the searches, of the share of them among the candidates
    found        REAL NOT NULL,      -- likewise among the hits
    passages     INTEGER NOT NULL,   -- that there were, at the last of the searches
    first_pass   TEXT NOT NULL       -- which one, as a JSON object
) STRICT
"""

# The statements that lead from this format to the next.
MIGRATIONS = {
    1: """
ALTER TABLE generations ADD COLUMN encoder TEXT;
ALTER TABLE generations ADD COLUMN replaces TEXT;
ALTER TABLE generations ADD COLUMN retired_at REAL;
CREATE INDEX documents_metadata ON documents (number, metadata);
CREATE TABLE metadata_indexes (
    number       INTEGER PRIMARY KEY AUTOINCREMENT,
    path         TEXT NOT NULL UNIQUE,
    is_built     INTEGER NOT NULL
) STRICT;
CREATE TABLE metadata_values (
    path         INTEGER NOT NULL,
    kind         INTEGER NOT NULL,
    member       INTEGER NOT NULL,
    value        ANY NOT NULL,
    document     INTEGER NOT NULL,
    PRIMARY KEY (path, kind, member, value, document)
) STRICT, WITHOUT ROWID;
CREATE INDEX metadata_values_by_document ON metadata_values (document);
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
"""
    + FULL_TEXT
    + """
INSERT INTO fulltext (fulltext) VALUES ('rebuild');
""",
}
