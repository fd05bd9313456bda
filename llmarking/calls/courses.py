"""What can be asked about courses, and the methods of both clients that ask it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from llmarking.calls.call import (
    AnyQuestion,
    Call,
    T,
    Whole,
    encoded,
    json_body,
    question_body,
    reader,
)
from llmarking.calls.jobs import Asks, AsksAsync, segment
from llmarking.protocol.courses import (
    Course,
    CourseQuestion,
    CourseQuestions,
    Courses,
    Deleted,
    StudentData,
    Summary,
    Upload,
    Uploads,
)

BINARY = {"Content-Type": "application/octet-stream"}


def get(path: str, kind: type[T], **query: object) -> Call[T]:
    """Ask for a body of this kind; what is None or empty is left out of the query."""
    given = {name: value for name, value in query.items() if value is not None and value != ""}
    ending = f"?{urlencode(given)}" if given else ""
    return Call(path + ending, lambda: Whole(reader(kind)))


def send(path: str, kind: type[T], method: str = "POST", **fields: Any) -> Call[T]:
    """Send these fields, once, and read a body of this kind."""
    return Call(path, lambda: Whole(reader(kind)), json_body(**fields), method=method, once=True)


def create_course(fields: Mapping[str, Any]) -> Call[Course]:
    return send("/courses", Course, **fields)


def courses() -> Call[list[Course]]:
    return Call("/courses", lambda: Whole(lambda data: reader(Courses)(data).courses))


def course(course: str) -> Call[Course]:
    return get(f"/courses/{segment(course)}", Course)


def change_course(course: str, fields: Mapping[str, Any]) -> Call[Course]:
    return send(f"/courses/{segment(course)}", Course, "PATCH", **fields)


def delete_course(course: str) -> Call[Deleted]:
    path = f"/courses/{segment(course)}"
    return Call(path, lambda: Whole(reader(Deleted)), method="DELETE", once=True)


def student(course: str, student: str) -> Call[StudentData]:
    return get(f"/courses/{segment(course)}/students/{segment(student)}", StudentData)


def delete_student(course: str, student: str) -> Call[Deleted]:
    path = f"/courses/{segment(course)}/students/{segment(student)}"
    return Call(path, lambda: Whole(reader(Deleted)), method="DELETE", once=True)


def put_questions(course: str, questions: Sequence[AnyQuestion]) -> Call[list[CourseQuestion]]:
    return Call(
        f"/courses/{segment(course)}/questions",
        lambda: Whole(lambda data: reader(CourseQuestions)(data).questions),
        json_body(questions=[question_body(question) for question in questions]),
        method="PUT",
    )


def questions(course: str) -> Call[list[CourseQuestion]]:
    path = f"/courses/{segment(course)}/questions"
    return Call(path, lambda: Whole(lambda data: reader(CourseQuestions)(data).questions))


def add_upload(course: str, data: bytes, filename: str, kind: str) -> Call[Upload]:
    path = f"/courses/{segment(course)}/uploads?{urlencode({'filename': filename, 'kind': kind})}"
    return Call(path, lambda: Whole(reader(Upload)), data, headers=BINARY, once=True)


def uploads(course: str) -> Call[list[Upload]]:
    path = f"/courses/{segment(course)}/uploads"
    return Call(path, lambda: Whole(lambda data: reader(Uploads)(data).uploads))


def set_mapping(upload: str, mapping: Mapping[str, Any]) -> Call[Upload]:
    path = f"/uploads/{segment(upload)}/mapping"
    return Call(path, lambda: Whole(reader(Upload)), encoded(dict(mapping)), method="PUT")


def upload_bytes(upload: str) -> Call[bytes]:
    return Call(f"/uploads/{segment(upload)}", lambda: Whole(bytes), slow=True)


def summary(course: str, risk: float | None) -> Call[Summary]:
    return get(f"/courses/{segment(course)}/summary", Summary, risk=risk)


def audit(course: str) -> Call[bytes]:
    return Call(f"/courses/{segment(course)}/audit", lambda: Whole(bytes), slow=True)


class CourseMethods:
    """Courses, their questions and files, for the blocking client."""

    def create_course(self: Asks, **fields: Any) -> Course:
        """Make a course: `name`, and if wanted `id`, `retention_days`, `risk`."""
        return self._one(create_course(fields))

    def courses(self: Asks) -> Sequence[Course]:
        """All courses, the latest first."""
        return self._one(courses())

    def course(self: Asks, course_id: str) -> Course:
        """A course, and how many of its answers are decided."""
        return self._one(course(course_id))

    def change_course(self: Asks, course_id: str, **fields: Any) -> Course:
        """Change what is named."""
        return self._one(change_course(course_id, fields))

    def delete_course(self: Asks, course_id: str) -> Deleted:
        """Delete a course with everything in it."""
        return self._one(delete_course(course_id))

    def student(self: Asks, course_id: str, student_id: str) -> StudentData:
        """All that is stored about a student of a course."""
        return self._one(student(course_id, student_id))

    def delete_student(self: Asks, course_id: str, student: str) -> Deleted:
        """Delete a student of a course with all answers and marks."""
        return self._one(delete_student(course_id, student))

    def put_questions(
        self: Asks, course_id: str, asked: Sequence[AnyQuestion]
    ) -> Sequence[CourseQuestion]:
        """Set questions; one that differs becomes a new version."""
        return self._one(put_questions(course_id, asked))

    def questions(self: Asks, course_id: str) -> Sequence[CourseQuestion]:
        """The questions in use, in their order."""
        return self._one(questions(course_id))

    def add_upload(
        self: Asks, course_id: str, data: bytes, *, filename: str, kind: str = ""
    ) -> Upload:
        """Keep a file as it is, so that marks can be filled into it later."""
        return self._one(add_upload(course_id, data, filename, kind))

    def uploads(self: Asks, course_id: str) -> Sequence[Upload]:
        """The files of a course, the latest first."""
        return self._one(uploads(course_id))

    def set_mapping(self: Asks, upload_id: str, mapping: Mapping[str, Any]) -> Upload:
        """Keep what the columns of a file mean."""
        return self._one(set_mapping(upload_id, mapping))

    def upload_bytes(self: Asks, upload_id: str) -> bytes:
        """A file as it was sent."""
        return self._one(upload_bytes(upload_id))

    def summary(self: Asks, course_id: str, risk: float | None = None) -> Summary:
        """A course in numbers, and what is left to read for a share of errors."""
        return self._one(summary(course_id, risk))

    def audit(self: Asks, course_id: str) -> bytes:
        """All that was done in a course, as JSON lines."""
        return self._one(audit(course_id))


class AsyncCourseMethods:
    """`CourseMethods` for asyncio."""

    async def create_course(self: AsksAsync, **fields: Any) -> Course:
        """See `CourseMethods.create_course`."""
        return await self._one(create_course(fields))

    async def courses(self: AsksAsync) -> Sequence[Course]:
        """See `CourseMethods.courses`."""
        return await self._one(courses())

    async def course(self: AsksAsync, course_id: str) -> Course:
        """See `CourseMethods.course`."""
        return await self._one(course(course_id))

    async def change_course(self: AsksAsync, course_id: str, **fields: Any) -> Course:
        """See `CourseMethods.change_course`."""
        return await self._one(change_course(course_id, fields))

    async def delete_course(self: AsksAsync, course_id: str) -> Deleted:
        """See `CourseMethods.delete_course`."""
        return await self._one(delete_course(course_id))

    async def student(self: AsksAsync, course_id: str, student_id: str) -> StudentData:
        """See `CourseMethods.student`."""
        return await self._one(student(course_id, student_id))

    async def delete_student(self: AsksAsync, course_id: str, student: str) -> Deleted:
        """See `CourseMethods.delete_student`."""
        return await self._one(delete_student(course_id, student))

    async def put_questions(
        self: AsksAsync, course_id: str, asked: Sequence[AnyQuestion]
    ) -> Sequence[CourseQuestion]:
        """See `CourseMethods.put_questions`."""
        return await self._one(put_questions(course_id, asked))

    async def questions(self: AsksAsync, course_id: str) -> Sequence[CourseQuestion]:
        """See `CourseMethods.questions`."""
        return await self._one(questions(course_id))

    async def add_upload(
        self: AsksAsync, course_id: str, data: bytes, *, filename: str, kind: str = ""
    ) -> Upload:
        """See `CourseMethods.add_upload`."""
        return await self._one(add_upload(course_id, data, filename, kind))

    async def uploads(self: AsksAsync, course_id: str) -> Sequence[Upload]:
        """See `CourseMethods.uploads`."""
        return await self._one(uploads(course_id))

    async def set_mapping(self: AsksAsync, upload_id: str, mapping: Mapping[str, Any]) -> Upload:
        """See `CourseMethods.set_mapping`."""
        return await self._one(set_mapping(upload_id, mapping))

    async def upload_bytes(self: AsksAsync, upload_id: str) -> bytes:
        """See `CourseMethods.upload_bytes`."""
        return await self._one(upload_bytes(upload_id))

    async def summary(self: AsksAsync, course_id: str, risk: float | None = None) -> Summary:
        """See `CourseMethods.summary`."""
        return await self._one(summary(course_id, risk))

    async def audit(self: AsksAsync, course_id: str) -> bytes:
        """See `CourseMethods.audit`."""
        return await self._one(audit(course_id))
