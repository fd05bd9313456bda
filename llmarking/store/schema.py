"""Every table of the store, for SQLite and PostgreSQL alike.

Marks and events are only ever added to. What stands now is a pointer, `answers.current_mark_id`,
that moves in the transaction that adds the mark. Times are seconds since 1970 in UTC, by the
database's own clock (`clock()`), so that several servers agree on what has expired.

Every table says in `info["pii"]` which of its columns hold personal data: who the student is, what
she or her teacher wrote, who decided. All of it goes when its course or student does.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

METADATA = sa.MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_ID = sa.String(64)
# Rising numbers: the order of marks and events is that of their ids.
_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON(none_as_null=True)
_TIME: sa.Double[float] = sa.Double()
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


class clock(FunctionElement[float]):  # noqa: N801 - it is used like a function of SQL
    """Seconds since 1970 by the database's clock, as an SQL expression."""

    type = sa.Double()
    inherit_cache = True


@compiles(clock, "sqlite")
def _clock_sqlite(element: clock, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(clock, "postgresql")
def _clock_postgresql(element: clock, compiler: Any, **options: Any) -> str:
    # Not now(): that stands still for the length of a transaction.
    return "extract(epoch from clock_timestamp())::double precision"


def new_id() -> str:
    """An id that nobody can guess and no two servers make twice."""
    return uuid.uuid4().hex


def storable(text: str) -> str:
    """The text without what no database takes: NUL and halves of characters become U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", text)


def text_key(text: str) -> str:
    """Equal for answers that read the same: Unicode form and white space do not count."""
    plain = " ".join(unicodedata.normalize("NFC", text).split())
    return hashlib.sha256(plain.encode()).hexdigest()


def _one_of(column: str, *values: str) -> sa.CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=column)


def _within(table: str, name: str, *, nullable: bool = False) -> sa.Column[Any]:
    """A reference to a row that takes this one with it when it goes."""
    target = sa.ForeignKey(f"{table}.id", ondelete="CASCADE")
    return sa.Column(name, _ID, target, nullable=nullable)


courses = sa.Table(
    "courses",
    METADATA,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("created_at", _TIME, nullable=False, default=clock()),
    sa.Column("retention_days", sa.Integer),
    sa.Column("risk", sa.Double),
    sa.Column("default_adapter", sa.Text),
    sa.Column("released_at", _TIME),
    info={"pii": ("name",)},
)

questions = sa.Table(
    "questions",
    METADATA,
    sa.Column("id", _ID, primary_key=True),
    _within("courses", "course_id"),
    sa.Column("code", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("reference", sa.Text, nullable=False),  # with its markup
    sa.Column("full_mark", sa.Double, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("examples", _JSON, nullable=False),
    # Of all that a grade may depend on: equal hashes, equal questions.
    sa.Column("content_hash", sa.String(64), nullable=False),
    # Not the versions that a regrade is only trying out.
    sa.Column("active", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("created_at", _TIME, nullable=False, default=clock()),
    sa.UniqueConstraint("course_id", "code", "version"),
    info={"pii": ("examples",)},
)

students = sa.Table(
    "students",
    METADATA,
    sa.Column("id", _ID, primary_key=True),
    _within("courses", "course_id"),
    sa.Column("external_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False, server_default=""),
    sa.UniqueConstraint("course_id", "external_id"),
    info={"pii": ("external_id", "name")},
)

uploads = sa.Table(
    "uploads",
    METADATA,
    sa.Column("id", _ID, primary_key=True),
    _within("courses", "course_id"),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
    sa.Column("mapping", _JSON),
    sa.Column("created_at", _TIME, nullable=False, default=clock()),
    sa.Index(None, "course_id"),
    info={"pii": ("filename", "content", "mapping")},
)

answers = sa.Table(
    "answers",
    METADATA,
    sa.Column("id", _ID, primary_key=True),
    _within("courses", "course_id"),
    sa.Column("question_code", sa.Text, nullable=False),
    _within("students", "student_id", nullable=True),
    sa.Column("external_id", sa.Text),  # the id that came with the upload
    sa.Column("position", sa.Integer, nullable=False),  # in the course, from 0
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("text_key", sa.String(64), nullable=False),
    sa.Column("source", _JSON),  # the upload's id and the row
    sa.Column("quality", sa.Text),
    sa.Column("teacher_verdicts", _JSON),  # that came with the upload
    sa.Column("created_at", _TIME, nullable=False, default=clock()),
    # No foreign key: marks point here, and each answer's mark moves in one statement.
    sa.Column("current_mark_id", _SERIAL),
    sa.UniqueConstraint("course_id", "external_id"),
    sa.UniqueConstraint("course_id", "position"),
    sa.Index(None, "course_id", "question_code", "text_key"),
    sa.Index(None, "student_id"),
    info={"pii": ("external_id", "text", "source", "quality", "teacher_verdicts")},
)

jobs = sa.Table(
    "jobs",
    METADATA,
    sa.Column("id", _ID, primary_key=True),
    _within("courses", "course_id"),
    sa.Column("kind", sa.Text, nullable=False, server_default="grade"),
    sa.Column("idempotency_key", sa.Text, unique=True),
    sa.Column("request_hash", sa.String(64)),
    sa.Column("options", _JSON, nullable=False),  # as they were asked for
    sa.Column("config", _JSON, nullable=False),  # as they were understood: model, calibration, …
    sa.Column("config_hash", sa.String(64), nullable=False),
    sa.Column("model", sa.Text, nullable=False),  # only a server that runs it takes the job
    sa.Column("state", sa.Text, nullable=False, server_default="queued"),
    # A regrade's marks are a proposal first.
    sa.Column("proposal", sa.Text),
    sa.Column("total", sa.Integer, nullable=False),
    sa.Column("graded", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failed", sa.Integer, nullable=False, server_default="0"),
    sa.Column("created_at", _TIME, nullable=False, default=clock()),
    sa.Column("started_at", _TIME),
    sa.Column("active_since", _TIME),  # started or resumed
    sa.Column("finished_at", _TIME),
    _one_of("kind", "grade", "regrade"),
    _one_of("state", "queued", "running", "paused", "cancelled", "finished"),
    _one_of("proposal", "proposed", "applied", "discarded"),
    sa.Index(None, "course_id"),
    sa.Index(None, "state"),
    info={"pii": ()},
)

blocks = sa.Table(
    "blocks",
    METADATA,
    sa.Column("id", _ID, primary_key=True),
    _within("jobs", "job_id"),
    _within("questions", "question_id"),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False, server_default="waiting"),
    sa.Column("lease_owner", sa.Text),
    sa.Column("lease_until", _TIME),
    # Claims that did not end in an orderly way; also tells one lease from the next.
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    _one_of("state", "waiting", "leased", "done"),
    sa.UniqueConstraint("job_id", "seq"),
    sa.Index(None, "job_id", "state", "seq"),
    sa.Index(None, "lease_owner"),
    sa.Index(None, "question_id"),
    info={"pii": ()},
)

marks = sa.Table(
    "marks",
    METADATA,
    sa.Column("id", _SERIAL, primary_key=True, autoincrement=True),
    _within("answers", "answer_id"),
    _within("questions", "question_id"),
    sa.Column("job_id", _ID, sa.ForeignKey("jobs.id", ondelete="SET NULL")),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("config_hash", sa.String(64)),  # of everything a model's mark depends on
    sa.Column("mark", sa.Double, nullable=False),
    sa.Column("full_mark", sa.Double, nullable=False),
    # [{id, held, probability, raw, evidence, reason, needs_review, outcome}, …]
    sa.Column("verdicts", _JSON, nullable=False),
    sa.Column("flags", _JSON, nullable=False),
    sa.Column("needs_review", sa.Boolean, nullable=False),
    # To sort by: sum over points of mark * min(p, 1 - p); the least sure point's max(p, 1 - p).
    sa.Column("marks_at_risk", sa.Double, nullable=False, server_default="0"),
    sa.Column("confidence", sa.Double),
    sa.Column("model", sa.Text),
    sa.Column("revision", sa.Text),
    sa.Column("adapter", sa.Text),
    sa.Column("adapter_version", sa.Text),
    sa.Column("method", sa.Text),
    sa.Column("shots", sa.Integer),
    sa.Column("prompt_version", sa.Text),
    sa.Column("calibration", sa.Text),
    sa.Column("author", sa.Text),
    sa.Column("comment", sa.Text),
    sa.Column("supersedes", _SERIAL),
    sa.Column("created_at", _TIME, nullable=False, default=clock()),
    _one_of("kind", "model", "human", "undo"),
    sa.CheckConstraint("kind <> 'model' OR config_hash IS NOT NULL", name="model_config"),
    # A crash may repeat the work, and never a mark.
    sa.Index(
        "uq_marks_answer_config",
        "answer_id",
        "config_hash",
        unique=True,
        sqlite_where=sa.text("kind = 'model'"),
        postgresql_where=sa.text("kind = 'model'"),
    ),
    sa.Index(None, "answer_id", "id"),
    sa.Index(None, "question_id"),
    sa.Index(None, "job_id"),
    sqlite_autoincrement=True,  # an id that was deleted is never given out again
    info={"pii": ("verdicts", "author", "comment")},
)

job_answers = sa.Table(
    "job_answers",
    METADATA,
    sa.Column("job_id", _ID, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("answer_id", _ID, sa.ForeignKey("answers.id", ondelete="CASCADE"), primary_key=True),
    _within("blocks", "block_id"),
    sa.Column("position", sa.Integer, nullable=False),  # in the upload, from 0
    sa.Column("state", sa.Text, nullable=False, server_default="waiting"),
    sa.Column("error", sa.Text),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("mark_id", _SERIAL),  # what this job said, whatever stands now
    sa.Column("graded_at", _TIME),
    _one_of("state", "waiting", "graded", "failed"),
    sa.UniqueConstraint("job_id", "position"),
    sa.Index(None, "block_id"),
    sa.Index(None, "answer_id"),
    sa.Index(None, "job_id", "graded_at"),
    info={"pii": ()},
)

course_calibrations = sa.Table(
    "course_calibrations",
    METADATA,
    sa.Column("id", _ID, primary_key=True),
    _within("courses", "course_id"),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("revision", sa.Text),
    sa.Column("adapter", sa.Text),
    sa.Column("adapter_version", sa.Text),
    sa.Column("prompt", sa.Text, nullable=False),
    sa.Column("slope", sa.Double, nullable=False),
    sa.Column("offset", sa.Double, nullable=False),
    sa.Column("spread", _JSON, nullable=False, server_default="[0, 0, 0]"),
    sa.Column("verdicts", sa.Integer, nullable=False),
    sa.Column("identity", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False, server_default="proposed"),
    sa.Column("created_at", _TIME, nullable=False, default=clock()),
    sa.Column("applied_at", _TIME),
    _one_of("state", "proposed", "applied", "discarded"),
    sa.Index(None, "course_id"),
    info={"pii": ()},
)

release_links = sa.Table(
    "release_links",
    METADATA,
    sa.Column("token_hash", sa.String(64), primary_key=True),
    _within("courses", "course_id"),
    _within("students", "student_id"),
    sa.Column("created_at", _TIME, nullable=False, default=clock()),
    sa.Column("revoked_at", _TIME),
    sa.Index(None, "course_id"),
    sa.Index(None, "student_id"),
    info={"pii": ()},
)

contests = sa.Table(
    "contests",
    METADATA,
    sa.Column("id", _ID, primary_key=True),
    _within("answers", "answer_id"),
    sa.Column("point_id", sa.Integer),  # the whole answer without one
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False, server_default="open"),
    sa.Column("created_at", _TIME, nullable=False, default=clock()),
    sa.Column("decided_at", _TIME),
    sa.Column("decided_by", sa.Text),
    sa.Column("comment", sa.Text),
    _one_of("state", "open", "upheld", "changed"),
    sa.Index(None, "answer_id"),
    info={"pii": ("text", "decided_by", "comment")},
)

events = sa.Table(
    "events",
    METADATA,
    sa.Column("id", _SERIAL, primary_key=True, autoincrement=True),
    _within("courses", "course_id", nullable=True),
    sa.Column("at", _TIME, nullable=False, default=clock()),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("subject", sa.Text),
    sa.Column("details", _JSON),  # never what a student wrote
    sa.Index(None, "course_id", "id"),
    sqlite_autoincrement=True,
    info={"pii": ("actor",)},
)
