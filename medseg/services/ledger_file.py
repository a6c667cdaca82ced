"""The file of the ledger: its tables, and opening it only where it is safe."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from medseg.services.jobs import STATES, LedgerError
from medseg.services.local_disk import file_system_of, is_network

SCHEMA_VERSION = 2
_APPLICATION_ID = 0x6D656473  # "meds"
_BUSY_SECONDS = 30.0

_SCHEMA = f"""
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL CHECK (kind IN ('study', 'series')),
    name TEXT NOT NULL UNIQUE,
    parent INTEGER REFERENCES jobs (id),
    state TEXT NOT NULL CHECK (state IN ({", ".join(f"'{state}'" for state in STATES)})),
    model TEXT NOT NULL DEFAULT '',
    recipe TEXT NOT NULL DEFAULT '',
    owner TEXT NOT NULL DEFAULT '',
    token INTEGER NOT NULL DEFAULT 0,
    lease_until REAL NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    interruptions INTEGER NOT NULL DEFAULT 0,
    source TEXT NOT NULL,
    results TEXT NOT NULL DEFAULT '[]',
    code TEXT NOT NULL DEFAULT '',
    sentence TEXT NOT NULL DEFAULT '',
    place TEXT NOT NULL DEFAULT '',
    note TEXT NOT NULL DEFAULT '',
    received_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    num_children INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX jobs_by_state ON jobs (state, attempts, id);
CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY,
    job INTEGER NOT NULL REFERENCES jobs (id),
    path TEXT NOT NULL,
    result TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'sent', 'confirmed', 'refused')),
    owner TEXT NOT NULL DEFAULT '',
    token INTEGER NOT NULL DEFAULT 0,
    lease_until REAL NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    UNIQUE (job, path)
) STRICT;
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    line TEXT NOT NULL,
    hash TEXT NOT NULL
) STRICT;
CREATE INDEX deliveries_by_state ON deliveries (state, not_before);
"""


def open_ledger(path: Path) -> sqlite3.Connection:
    """A connection to a ledger, made if there is none.

    Raises:
        LedgerError: the disk is a network's, or the file is no ledger, damaged or too new.
    """
    file_system = file_system_of(path)
    if is_network(file_system):
        raise LedgerError(
            path,
            f"lies on a network file system ({file_system}), where a ledger can be damaged",
            "set paths.ledger to a file on a disk of this machine",
            code="E_LEDGER_NETWORK",
        )
    if path.is_dir():
        raise LedgerError(path, "is a folder", "set paths.ledger to a file, such as ledger.sqlite")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
    except (OSError, sqlite3.Error) as error:
        raise failure(path, error) from error
    try:
        _prepare(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise failure(path, error) from error
    except LedgerError:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if version == 0 and tables == 0:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        elif application != _APPLICATION_ID:
            raise LedgerError(path, "is an SQLite file of another program", "set paths.ledger")
        elif version == 1:  # did not tell interruptions from attempts
            connection.execute(
                "ALTER TABLE jobs ADD COLUMN interruptions INTEGER NOT NULL DEFAULT 0"
            )
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        elif version != SCHEMA_VERSION:
            raise LedgerError(
                path,
                f"has schema version {version}, this medseg reads {SCHEMA_VERSION}",
                "use the medseg version that wrote it, or begin a new ledger",
            )
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if damage != "ok":
        raise LedgerError(path, "is damaged", "restore it from the last backup")


def failure(path: Path, error: Exception) -> LedgerError:
    """What is told of an error of SQLite; E_DISK_FULL if there is no room."""
    if isinstance(error, sqlite3.DatabaseError) and "not a database" in str(error):
        return LedgerError(path, "is no ledger", "set paths.ledger to another file")
    is_out_of_room = "full" in str(error) or "disk I/O error" in str(error)
    return LedgerError(
        path,
        f"cannot be used ({error})",
        "check the disk's free space and the file's permissions",
        code="E_DISK_FULL" if is_out_of_room else None,
    )
