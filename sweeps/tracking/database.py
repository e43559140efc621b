"""The sqlite file beside a sweep's results, which MLflow uses where there is no server."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from gatesweep.core.files import hold_lock, renamed_into


def create_database(path: Path) -> None:
    """Make MLflow's sqlite file if there is none, in one process: two migrations at once would collide.

    Raises OSError where the folder cannot be written.
    """
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with hold_lock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            return
        with renamed_into(path) as aside:
            SqlAlchemyStore(f"sqlite:///{aside}", (path.parent / "mlartifacts").as_uri()).engine.dispose()
            with sqlite3.connect(aside) as connection:  # with a write-ahead log the UI reads while a sweep writes
                connection.execute("pragma journal_mode=wal")
                connection.execute("pragma wal_checkpoint(truncate)")
            connection.close()


def default_uri(sweep: Path) -> str:
    """Return the URI of the sqlite file that the sweeps of one results folder share."""
    return f"sqlite:///{sweep.resolve().parent / 'mlflow.db'}"
