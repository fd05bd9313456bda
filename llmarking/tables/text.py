"""Bytes to text: which encoding a teacher's file is in, by trying them strictly, one after another.

A byte-order mark decides. Without one, text is UTF-8 if it can be; else UTF-16 if every other byte
is zero; else GB18030 or Windows-1252, whichever the pairs of high bytes speak for.
"""

from __future__ import annotations

import re

from llmarking.errors import DataError
from llmarking.sentences import sentence

_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_NAMES = {
    "utf-8": "UTF-8",
    "utf-16-le": "UTF-16",
    "utf-16-be": "UTF-16, big end first",
    "gb18030": "GB18030",
    "cp1252": "Windows-1252",
}
_HIGH = re.compile(rb"[\x80-\xff]+")


def decode(data: bytes, file: str, encoding: str | None = None) -> tuple[str, str, bytes]:
    """The text, the name of its encoding, and the byte-order mark that stood before it.

    Raises:
        DataError: it is in none of them, or not in the one that was asked for.
    """
    for mark, name in _MARKS:
        if data.startswith(mark) and encoding in (None, name):
            return _strict(data[len(mark) :], name, file), name, mark
    name = encoding or _guess(data, file)
    if name not in _NAMES:
        fault = sentence(
            "encoding_unknown",
            "can't be read as {name}; there are {known}",
            name=name,
            known=", ".join(_NAMES),
        )
        raise DataError(fault, file=file)
    return _strict(data, name, file), name, b""


def described(encoding: str, mark: bytes) -> str:
    """The encoding in words."""
    name = _NAMES[encoding]
    return sentence("with_mark", "{name} with a byte-order mark", name=name) if mark else name


def line_of(text: str, position: int) -> int:
    """The 1-based line at a position; lines end in LF, CR or both."""
    return 1 + breaks(text[:position])


def breaks(text: str) -> int:
    """How many line breaks there are: LF, CR, or both together."""
    return text.count("\n") + text.count("\r") - text.count("\r\n")


def _strict(data: bytes, encoding: str, file: str) -> str:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = line_of(data[: error.start].decode(encoding, "replace"), len(data))
        fault = sentence(
            "not_encoding", "is not {name} here; save it as UTF-8", name=_NAMES[encoding]
        )
        raise DataError(fault, file=file, line=line) from None
    if (at := text.find("\0")) >= 0:
        raise DataError(
            sentence(
                "zero_byte",
                "holds a zero byte, which no text does; save it as CSV UTF-8 or as .xlsx",
            ),
            file=file,
            line=line_of(text, at),
        )
    return text


def _guess(data: bytes, file: str) -> str:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        if _mostly_utf8(data):
            line = line_of(data[: error.start].decode("utf-8"), error.start)
            raise DataError(
                sentence(
                    "damaged_text",
                    "is UTF-8 but for some bytes, here for the first time; the file is damaged. "
                    "Export it again",
                ),
                file=file,
                line=line,
            ) from None
    else:
        if b"\0" not in data:
            return "utf-8"
    if wide := _wide(data):
        return wide
    if b"\0" in data:
        return "utf-8"  # which then says where the zero byte stands
    fitting = [name for name in ("gb18030", "cp1252") if _decodes(data, name)]
    if not fitting:
        fault = sentence("no_text", "is neither UTF-8, UTF-16, GB18030 nor Windows-1252 text")
        raise DataError(fault, file=file)
    return fitting[0] if len(fitting) == 1 or _chinese(data) else "cp1252"


def _wide(data: bytes) -> str:
    """UTF-16 without its mark: in most languages' tables every other byte is often zero."""
    sample = data[: 1 << 16]
    if len(data) % 2 or len(sample) < 4:
        return ""
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    fewest = len(sample) // 16
    if odd > fewest and even == 0:
        return "utf-16-le"
    if even > fewest and odd == 0:
        return "utf-16-be"
    return ""


def _mostly_utf8(data: bytes) -> bool:
    """Whether far more of its high bytes are good UTF-8 than not."""
    text = data.decode("utf-8", "replace")
    bad = text.count("�")
    good = sum(1 for char in text if char > "\x7f") - bad
    return good > 4 * bad


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _chinese(data: bytes) -> bool:
    """High bytes of everyday Chinese come in pairs; those of Western text stand alone."""
    runs = _HIGH.findall(data)
    paired = sum(len(run) for run in runs if len(run) % 2 == 0)
    return 2 * paired > sum(map(len, runs))
