"""Files as teachers sent them, so that marks can be filled into the very same file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from llmarking.errors import InputError, NotFound
from llmarking.sentences import sentence
from llmarking.store.courses import log_event, require_course
from llmarking.store.schema import new_id, storable, uploads

Row = sa.RowMapping
_ABOUT = (
    uploads.c.id,
    uploads.c.kind,
    uploads.c.filename,
    uploads.c.mapping,
    uploads.c.created_at,
    sa.func.length(uploads.c.content).label("bytes"),
)


def keep(
    tx: sa.Connection, course: str, filename: str, kind: str, content: bytes, actor: str
) -> Row:
    """Store a file's bytes.

    Raises:
        NotFound: there is no such course.
        InputError: there is nothing in it.
    """
    require_course(tx, course)
    if not content:
        fault = sentence("file_empty", "the file is empty; send its bytes as the body")
        raise InputError(fault, field="body")
    upload_id = new_id()
    tx.execute(
        sa.insert(uploads).values(
            id=upload_id,
            course_id=course,
            kind=storable(kind),
            filename=storable(filename),
            content=content,
        )
    )
    log_event(tx, course, actor, "upload.kept", upload_id, {"bytes": len(content)})
    return about(tx, upload_id)


def listed(tx: sa.Connection, course: str) -> list[Row]:
    """The files of a course without their bytes, the latest first.

    Raises:
        NotFound: there is no such course.
    """
    require_course(tx, course)
    query = sa.select(*_ABOUT).where(uploads.c.course_id == course)
    query = query.order_by(uploads.c.created_at.desc(), uploads.c.id)
    return list(tx.execute(query).mappings())


def about(tx: sa.Connection, upload_id: str) -> Row:
    """A file without its bytes, but with their number.

    Raises:
        NotFound: there is none of that id.
    """
    return _one(tx, upload_id, _ABOUT)


def read(tx: sa.Connection, upload_id: str) -> bytes:
    """The bytes of a file.

    Raises:
        NotFound: there is none of that id.
    """
    return bytes(_one(tx, upload_id, (uploads.c.content,))["content"])


def save_mapping(tx: sa.Connection, upload_id: str, mapping: Mapping[str, Any], actor: str) -> Row:
    """Keep what the columns of a file mean.

    Raises:
        NotFound: there is none of that id.
    """
    course = _one(tx, upload_id, (uploads.c.course_id,))["course_id"]
    tx.execute(sa.update(uploads).where(uploads.c.id == upload_id).values(mapping=dict(mapping)))
    log_event(tx, course, actor, "upload.mapped", upload_id)
    return about(tx, upload_id)


def _one(tx: sa.Connection, upload_id: str, columns: Sequence[sa.ColumnElement[Any]]) -> Row:
    row = tx.execute(sa.select(*columns).where(uploads.c.id == upload_id)).mappings().first()
    if row is None:
        fault = sentence("no_file_there", "there is no file {id}", id=repr(upload_id))
        raise NotFound(fault, field="upload")
    return row
