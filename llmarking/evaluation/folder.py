"""The folder of one run: what was run, a line for every answer, and the metrics.

No file here ever holds what a student wrote.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Self

from llmarking.errors import DataError, InputError
from llmarking.sentences import counted

Sample = dict[str, Any]
Key = tuple[str, str]
SAMPLES = "samples.jsonl"


def folder_name(text: str) -> str:
    """A name as one step of a path: that of the folder for a path, and no strange letters."""
    last = PurePath(text).name if text.startswith(("/", ".", "~")) else text
    return re.sub(r"[^\w.+-]+", "_", last).strip("._") or "unnamed"


class RunFolder:
    """Opened for one run at a time; use it in a `with` block.

    Args:
        configuration: what has to be the same for answers to belong to one run.
        resume: go on with what is there.

    Raises:
        InputError: there are answers and `resume` is not set, or they are of another run.
    """

    def __init__(self, path: Path, configuration: Mapping[str, Any], *, resume: bool) -> None:
        self.path = path
        self.run: dict[str, Any] = {}
        path.mkdir(parents=True, exist_ok=True)
        self._file = (path / SAMPLES).open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.samples = self._read()
            if self.samples:
                self._compare(configuration, resume)
        except BlockingIOError:
            self._file.close()
            raise InputError(f"another run is writing to {path}") from None
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def append(self, sample: Sample) -> None:
        """Keep an answer: once this returns, it outlives the process."""
        self._file.write(json.dumps(sample, allow_nan=False).encode() + b"\n")
        self._file.flush()
        self.samples[key(sample)] = sample

    def write(self, name: str, content: Mapping[str, Any] | str) -> None:
        """Replace a file as a whole, so that it is never half there."""
        if not isinstance(content, str):
            content = json.dumps(content, allow_nan=False, indent=1) + "\n"
        target = self.path / name
        target.parent.mkdir(exist_ok=True)
        draft = target.with_name(f".{target.name}.tmp")
        with draft.open("w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)

    def _read(self) -> dict[Key, Sample]:
        """The answers there are. A last line that was cut off when the process died is removed."""
        self._file.seek(0)
        samples, whole = _parse(self._file.read(), self.path / SAMPLES)
        self._file.truncate(whole)
        return samples

    def _compare(self, configuration: Mapping[str, Any], resume: bool) -> None:
        if not resume:
            raise InputError(
                f"{self.path} holds {counted(len(self.samples), 'answer', 'answers')} already; "
                "--resume goes on from there, --out puts this run elsewhere"
            )
        self.run = read_run(self.path)
        before = self.run["configuration"]
        changes = [
            f"{name} was {before.get(name)!r} and is {configuration.get(name)!r}"
            for name in {**before, **configuration}
            if before.get(name) != configuration.get(name)
        ]
        if changes:
            raise InputError(
                f"{self.path} can't be resumed, it is of another run: {'; '.join(changes)}; "
                "--out puts this run elsewhere"
            )


def read_run(path: Path) -> dict[str, Any]:
    """What was run, from a folder's `run.json`.

    Raises:
        InputError: there is no such file, or it says something else.
    """
    try:
        run: dict[str, Any] = json.loads((path / "run.json").read_text(encoding="utf-8"))
        run["configuration"].keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is no run: its run.json says not what was run ({error})"
        ) from None
    return run


def closed(sessions: Sequence[dict[str, Any]], graded: int) -> list[dict[str, Any]]:
    """Sessions before this one. One that was killed has no end, and graded what no other did.

    Args:
        graded: answers that all of them left.
    """
    others = sum(session["answers"] for session in sessions if session["ended"])
    told = [s if s["ended"] else {**s, "answers": graded - others} for s in sessions]
    return [session for session in told if session["answers"] or session["failed"]]


def read_samples(path: Path) -> dict[Key, Sample]:
    """The answers in a folder; none where they were not kept, a last line that is cut left out.

    Raises:
        DataError: a line is no answer.
    """
    file = path / SAMPLES
    return _parse(file.read_bytes(), file)[0] if file.exists() else {}


def _parse(content: bytes, file: Path) -> tuple[dict[Key, Sample], int]:
    """Answers, and how many bytes of the file are whole lines."""
    lines = content.splitlines(keepends=True)
    samples: dict[Key, Sample] = {}
    whole = 0
    for number, line in enumerate(lines, start=1):
        try:
            sample = _sample(line)
            samples[key(sample)] = sample
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise DataError(f"no answer: {error}", file=str(file), line=number) from None
        whole += len(line)
    return samples, whole


def _sample(line: bytes) -> Sample:
    if not line.endswith(b"\n"):
        raise ValueError("the line is cut off")
    sample: Sample = json.loads(line)
    return sample


def key(sample: Sample) -> Key:
    """What tells an answer from all others of its course."""
    return sample["question"], sample["id"]
