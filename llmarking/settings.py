"""One frozen settings class per program: defaults live here, scripts fill in their arguments."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmarking.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How the server listens and what it accepts.

    Attributes:
        api_keys: when there is any, every route but the two health checks needs one of them.
        max_queue: answers and samples that may be accepted and unfinished at once.
        max_body: bytes of a request body.
        drain_seconds: how long running requests may take after SIGTERM.
        default_adapter: the adapter that grades where a request names none.
        database_url: where courses, jobs and marks are kept; None is what the environment says.
        lease_seconds: how long a block of answers belongs to a server that is not heard of.
        job_concurrency: answers of jobs that may be in the engine at once.
        retention_days: a course that says nothing else is deleted so long after it was last used; 0
            keeps it for ever.
        admin_keys: what may load and remove adapters; with none, nobody may.
        adapter_folder: where adapters lie that may be loaded while the server runs.
        max_adapter: bytes of an adapter's weights.
        body_seconds: how long a request body may take, before what its size adds.
        prompt: version of the verdict prompt for a model without adapter.
        stall_seconds: how long the engine may be silent over its work and still count as ready.
        screeners: processes that screen answers beside the server's own; with 0 it does that too.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    max_queue: int = 1024
    max_body: int = 32 << 20
    drain_seconds: int = 30
    default_adapter: str | None = None
    database_url: str | None = field(default=None, repr=False)
    lease_seconds: float = 30.0
    job_concurrency: int = 1024
    retention_days: int = 365
    admin_keys: tuple[str, ...] = field(default=(), repr=False)
    adapter_folder: Path | None = None
    max_adapter: int = 1 << 30
    body_seconds: float = 30.0
    stall_seconds: float = 300.0
    prompt: str | None = None
    screeners: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise InputError(f"--port {self.port}: a port is between 0 and 65535", field="port")
        if self.max_queue < 1:
            raise InputError(f"--max-queue {self.max_queue}: must be at least 1", field="max_queue")
        if not 1 <= self.lease_seconds <= 3600:
            raise InputError(
                f"--lease-seconds {self.lease_seconds:g}: must be from 1 to 3600",
                field="lease_seconds",
            )
        if self.job_concurrency < 1:
            raise InputError(
                f"--job-concurrency {self.job_concurrency}: must be at least 1",
                field="job_concurrency",
            )
        if not 0 <= self.retention_days <= 36_500:
            raise InputError(
                f"--retention-days {self.retention_days}: must be from 0 (for ever) to 36500",
                field="retention_days",
            )
        if not 0 <= self.screeners <= 64:
            raise InputError(
                f"--screeners {self.screeners}: must be from 0 to 64", field="screeners"
            )
        if self.stall_seconds <= 0:
            raise InputError("--stall-seconds: must be more than 0", field="stall_seconds")
        for field_name in ("api_key", "admin_key"):
            for key in getattr(self, f"{field_name}s"):
                if len(key) < 8 or not key.isascii() or any(c.isspace() for c in key):
                    flag = field_name.replace("_", "-")
                    raise InputError(
                        f"--{flag}: a key has at least 8 characters, all ASCII and none a space",
                        field=field_name,
                    )


def keys(
    given: list[str] | None, variable: str, environ: Mapping[str, str] = os.environ
) -> tuple[str, ...]:
    """Keys from the command line, then from an environment variable (by commas or spaces)."""
    inherited = environ.get(variable, "").replace(",", " ").split()
    return tuple(dict.fromkeys([*(given or []), *inherited]))
