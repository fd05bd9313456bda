"""Every error LLMarking raises on purpose.

    LLMarkingError
    ├── InputError                what the user gave is wrong: what, where, what to do
    │   ├── RubricError           the <PointK:mark> markup of a reference answer
    │   ├── DataError             a course, answer or result file (file, line, column)
    │   ├── PromptError           a template that is missing, or lacks a variable
    │   ├── PromptTooLong         more tokens than the model's context holds
    │   ├── CalibrationError      a calibration file that does not fit what it is used for
    │   ├── UnknownModelError     a model, adapter or template name nobody knows
    │   ├── NotFound              no course, job, answer, … of that id
    │   └── Conflict              it has changed since, or is not in a state for that
    ├── StoreError                the database can't be reached, read or written
    ├── HubError                  weights could not be had
    │   ├── ModelUnavailable      no source could be reached or none has it
    │   ├── ChecksumMismatch      what arrived is not what was published
    │   ├── GatedModel            a licence must be accepted first
    │   └── NotEnoughMemory       the model cannot fit in this machine
    ├── EngineError
    │   ├── EngineDead            the engine stopped and will not answer again
    │   └── Overloaded            the queue is full; try again after `retry_after` s
    ├── TrainingDiverged          the loss or a gradient is no longer a number
    └── ClientError               talking to a server
        ├── ServerUnreachable     nobody answers at that address, or it is not ready
        └── RequestRefused        it answered with an error status

The package raises; the edges translate: the server into problem details (RFC 9457), the scripts
into one line on standard error and an exit code, the pages into the language of their visitor.
"""

from __future__ import annotations

from llmarking.sentences import sentence


class LLMarkingError(Exception):
    """Base of everything below; its text is meant for the user."""

    @property
    def message(self) -> str:
        """What is wrong, as it was raised: a `Sentence` where it can be said in other languages."""
        return self.args[0] if self.args and isinstance(self.args[0], str) else str(self)


class InputError(LLMarkingError):
    """What the user gave is wrong. `field` names the part of a request, where there is one."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class RubricError(InputError):
    """A fault in point markup, at a 1-based `column` of the reference answer."""

    def __init__(
        self, message: str, *, point: str | None = None, column: int | None = None
    ) -> None:
        super().__init__(message, field="reference")
        self.point = point
        self.column = column


class DataError(InputError):
    """A fault in a file, with its name, 1-based line and column name where they are known."""

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        column: str | None = None,
    ) -> None:
        where = ", ".join(
            part
            for part in (
                file,
                f"line {line}" if line is not None else None,
                f"column {column}" if column is not None else None,
            )
            if part
        )
        super().__init__(f"{where}: {message}" if where else message)
        self._message = message
        self.file = file
        self.line = line
        self.column = column

    @property
    def message(self) -> str:
        """What is wrong there, without the place."""
        return self._message


class PromptError(InputError):
    """A template that does not exist or was rendered without one of its variables."""


class PromptTooLong(InputError):
    """A prompt of `length` tokens against a context that leaves room for `limit`."""

    def __init__(self, length: int, limit: int, *, field: str | None = None) -> None:
        super().__init__(
            sentence(
                "prompt_too_long",
                "the prompt is {length} tokens long and the model takes at most {limit}; shorten "
                "it or start the server with a larger --max-model-len",
                length=length,
                limit=limit,
            ),
            field=field,
        )
        self.length = length
        self.limit = limit


class CalibrationError(InputError):
    """A calibration that is malformed or belongs to another model, adapter or prompt."""


class UnknownModelError(InputError):
    """A model, adapter or template that is not known by that name."""


class NotFound(InputError):
    """Nothing in the store has that id."""


class Conflict(InputError):
    """What is asked for does not go with the state things are in by now."""


class StoreError(LLMarkingError):
    """The database can't be used at present."""


class HubError(LLMarkingError):
    """Weights could not be fetched or must not be used."""


class ModelUnavailable(HubError):
    """No source could deliver the model."""


class ChecksumMismatch(HubError):
    """A file is not the one that was published."""


class GatedModel(HubError):
    """The publisher wants a licence accepted before the download."""


class NotEnoughMemory(HubError):
    """The model needs more memory than the machine has."""


class EngineError(LLMarkingError):
    """The engine could not do what was asked."""


class EngineDead(EngineError):
    """The engine has stopped; only a restart of the server helps."""


class Overloaded(EngineError):
    """The waiting queue is full. `retry_after` is in whole seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(
            sentence("busy", "the server is busy; try again in {seconds} s", seconds=retry_after)
        )
        self.retry_after = retry_after


class TrainingDiverged(LLMarkingError):
    """The loss or a gradient is no longer a number; the step and what to change are in the text."""


class ClientError(LLMarkingError):
    """A request to a server failed."""


class ServerUnreachable(ClientError):
    """No server answers at the address, or it is not ready yet."""


class RequestRefused(ClientError):
    """The server answered with an error. `problem` is what its problem details say, if any."""

    def __init__(
        self, message: str, *, status: int, problem: dict[str, object] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.problem = problem or {}
