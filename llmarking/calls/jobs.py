"""What can be asked about class jobs, and the methods of both clients that ask it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import quote

from llmarking.calls.call import Call, Whole, json_body, reader
from llmarking.protocol.jobs import Job, JobList, JobResults

T = TypeVar("T")
FileFormat = Literal["json", "csv", "xlsx"]


def segment(text: str) -> str:
    """Somebody's id as one segment of a path."""
    return quote(text, safe="")


def create_job(body: Mapping[str, Any], key: str | None) -> Call[Job]:
    # With a key the same request again is the same job, so a lost reply may be asked for again.
    headers = {} if key is None else {"Idempotency-Key": key}
    return Call(
        "/jobs",
        lambda: Whole(reader(Job)),
        json_body(**body),
        once=key is None,
        headers=headers,
    )


def list_jobs(course: str | None) -> Call[list[Job]]:
    path = "/jobs" if course is None else f"/jobs?course={segment(course)}"
    return Call(path, lambda: Whole(lambda data: reader(JobList)(data).jobs))


def job(job: str) -> Call[Job]:
    return Call(f"/jobs/{segment(job)}", lambda: Whole(reader(Job)))


def change_job(job: str, change: Literal["pause", "resume"]) -> Call[Job]:
    return Call(f"/jobs/{segment(job)}/{change}", lambda: Whole(reader(Job)), method="POST")


def cancel_job(job: str) -> Call[Job]:
    return Call(f"/jobs/{segment(job)}", lambda: Whole(reader(Job)), method="DELETE")


def job_results(job: str, offset: int, limit: int | None) -> Call[JobResults]:
    end = "" if limit is None else f"&limit={limit}"
    path = f"/jobs/{segment(job)}/results?offset={offset}{end}"
    return Call(path, lambda: Whole(reader(JobResults)), slow=True)


def job_file(job: str, form: FileFormat) -> Call[bytes]:
    return Call(f"/jobs/{segment(job)}/results?format={form}", lambda: Whole(bytes), slow=True)


class Asks(Protocol):
    """A client that blocks."""

    def _one(self, call: Call[T]) -> T: ...


class AsksAsync(Protocol):
    """A client for asyncio."""

    async def _one(self, call: Call[T]) -> T: ...


class JobMethods:
    """Class jobs, for the blocking client."""

    def create_job(
        self: Asks, body: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Job:
        """Hand a class in; it is saved when this returns, and graded in the background.

        Args:
            body: `course`, `questions`, `answers` and how to grade, as `POST /jobs` takes them.
            idempotency_key: the same body under the same key again is the same job.
        """
        return self._one(create_job(body, idempotency_key))

    def jobs(self: Asks, course: str | None = None) -> Sequence[Job]:
        """Jobs, the newest first."""
        return self._one(list_jobs(course))

    def job(self: Asks, job_id: str) -> Job:
        """How far a job is, how fast it goes, and how long it will take."""
        return self._one(job(job_id))

    def pause_job(self: Asks, job_id: str) -> Job:
        """Stop grading until it is resumed."""
        return self._one(change_job(job_id, "pause"))

    def resume_job(self: Asks, job_id: str) -> Job:
        """Go on with what was paused."""
        return self._one(change_job(job_id, "resume"))

    def cancel_job(self: Asks, job_id: str) -> Job:
        """End a job; the marks that it has given stay."""
        return self._one(cancel_job(job_id))

    def job_results(
        self: Asks, job_id: str, *, offset: int = 0, limit: int | None = None
    ) -> JobResults:
        """Marks in the order of the upload, so far as there are any."""
        return self._one(job_results(job_id, offset, limit))

    def job_file(self: Asks, job_id: str, form: FileFormat) -> bytes:
        """All results as a file."""
        return self._one(job_file(job_id, form))


class AsyncJobMethods:
    """`JobMethods` for asyncio."""

    async def create_job(
        self: AsksAsync, body: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Job:
        """See `JobMethods.create_job`."""
        return await self._one(create_job(body, idempotency_key))

    async def jobs(self: AsksAsync, course: str | None = None) -> Sequence[Job]:
        """See `JobMethods.jobs`."""
        return await self._one(list_jobs(course))

    async def job(self: AsksAsync, job_id: str) -> Job:
        """See `JobMethods.job`."""
        return await self._one(job(job_id))

    async def pause_job(self: AsksAsync, job_id: str) -> Job:
        """See `JobMethods.pause_job`."""
        return await self._one(change_job(job_id, "pause"))

    async def resume_job(self: AsksAsync, job_id: str) -> Job:
        """See `JobMethods.resume_job`."""
        return await self._one(change_job(job_id, "resume"))

    async def cancel_job(self: AsksAsync, job_id: str) -> Job:
        """See `JobMethods.cancel_job`."""
        return await self._one(cancel_job(job_id))

    async def job_results(
        self: AsksAsync, job_id: str, *, offset: int = 0, limit: int | None = None
    ) -> JobResults:
        """See `JobMethods.job_results`."""
        return await self._one(job_results(job_id, offset, limit))

    async def job_file(self: AsksAsync, job_id: str, form: FileFormat) -> bytes:
        """See `JobMethods.job_file`."""
        return await self._one(job_file(job_id, form))
