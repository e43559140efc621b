"""The sqlite file beside a sweep's results, which MLflow is given where no server is."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path


def create_database(path: Path) -> None:
    """Make MLflow's sqlite file once: aside under a lock, then renamed, for its migrations do not bear company."""
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        SqlAlchemyStore(f"sqlite:///{aside}", (path.parent / "mlartifacts").as_uri()).engine.dispose()
        with sqlite3.connect(aside) as connection:  # the UI reads while a sweep writes
            connection.execute("pragma journal_mode=wal")
            connection.execute("pragma wal_checkpoint(truncate)")
        connection.close()
        aside.rename(path)


def default_uri(sweep: Path) -> str:
    return f"sqlite:///{sweep.resolve().parent / 'mlflow.db'}"
