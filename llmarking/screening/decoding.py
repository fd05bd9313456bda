"""Texts that an answer holds in disguise: encoded, spelt backwards, spaced out, in leetspeak.

Each decoder takes a folded text and yields readings that might be language. It need not be right:
a reading that is not language matches no rule. Every one is linear in the text.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import urllib.parse
from collections.abc import Callable, Iterator

_MOST = 40  # readings per decoder; nobody needs more to say one thing

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{12,}(?:\s[A-Za-z0-9+/_-]{12,})*={0,2}")
_BASE32 = re.compile(r"[A-Z2-7]{16,}={0,6}")
_HEX = re.compile(r"(?:(?:\\x|0x)?[0-9a-fA-F]{2}[\s:,;-]{0,2}+){8,}+")
_BINARY = re.compile(r"(?:[01]{7,8}[\s,]{0,2}+){6,}+")
_DECIMAL = re.compile(r"(?:&?#?\d{2,3}[\s,;]{1,2}){7,}+(?:\d{2,3})?")
_PERCENT = re.compile(r"(?:%[0-9a-fA-F]{2}){3,}|%20")
_ESCAPE = re.compile(r"\\u\{?([0-9a-fA-F]{4,5})\}?|\\x([0-9a-fA-F]{2})|[Uu]\+([0-9a-fA-F]{4,5})")
_ENTITY = re.compile(r"&#?\w{1,8};")
_MORSE = re.compile(r"(?:[.·•-]{1,6}[ /|]{1,3}){7,}+[.·•-]{0,6}")
_SPACED = re.compile(r"(?<!\w)\w(?:[\W_]{1,3}\w(?!\w)){7,}+")
_HAN_SPACED = re.compile(r"[\u4e00-\u9fff](?:[^\w]{1,2}[\u4e00-\u9fff](?!\w)){3,}+")
_LEET_WORD = re.compile(r"(?<![\w@$!|+])(?=[\w@$!|+]*[a-z])(?=[\w@$!|+]*[0-9@$!|+])[\w@$!|+]{3,}")
_LEET = str.maketrans("013456789@$|+", "oieasgtbgasit")
_BANG = re.compile(r"!(?=\w)")

_MORSE_CODES = dict(
    zip(
        (
            ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- "
            "...- .-- -..- -.-- --.. ----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----."
        ).split(),
        "abcdefghijklmnopqrstuvwxyz0123456789",
        strict=True,
    )
)
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_COMMON = (
    "the this and for all give mark marks full answer points point ignore true correct grade "
    "as is to"
)


def _shifts() -> Iterator[tuple[dict[int, int], frozenset[str]]]:
    """For every shift of the alphabet, the table that undoes it, and common words under it."""
    for shift in range(1, 26):
        shifted = _ALPHABET[shift:] + _ALPHABET[:shift]
        encoded = _COMMON.translate(str.maketrans(_ALPHABET, shifted))
        yield str.maketrans(shifted, _ALPHABET), frozenset(encoded.split())


_SHIFTS = tuple(_shifts())


def readings(text: str, folded: str) -> Iterator[tuple[str, str]]:
    """Pairs of the disguise's name and what the text may say under it.

    Args:
        text: as typed; base64 needs its case.
        folded: the copy that rules look at.
    """
    for name, decode in _DECODERS:
        for count, reading in enumerate(decode(text)):
            if count == _MOST:
                break
            yield name, reading
    yield "written backwards", folded[::-1]
    yield from (("shifted alphabet", reading) for reading in _caesar(folded))
    yield from (("leetspeak", reading) for reading in _leet(folded))
    yield from (("letters apart", reading) for reading in _spaced(folded))


def _printable(octets: bytes) -> Iterator[str]:
    for encoding in ("utf-8", "utf-16-le"):
        try:
            reading = octets.decode(encoding)
        except UnicodeDecodeError:
            continue
        if reading.isprintable() or re.fullmatch(r"[^\x00-\x08\x0e-\x1f\x7f-\x9f]+", reading):
            yield reading
            return


def _base64(text: str) -> Iterator[str]:
    for match in _BASE64.finditer(text):
        whole = re.sub(r"\s", "", match.group())
        for piece in dict.fromkeys((whole, *match.group().split())):
            body = piece.rstrip("=").replace("-", "+").replace("_", "/")
            try:
                octets = base64.b64decode(body[: len(body) // 4 * 4 + 4] + "=" * (-len(body) % 4))
            except (binascii.Error, ValueError):
                continue
            yield from _printable(octets)


def _base32(text: str) -> Iterator[str]:
    for match in _BASE32.finditer(text):
        body = match.group().rstrip("=")
        try:
            yield from _printable(base64.b32decode(body + "=" * (-len(body) % 8)))
        except (binascii.Error, ValueError):
            continue


def _hex(text: str) -> Iterator[str]:
    for match in _HEX.finditer(text):
        digits = re.sub(r"\\x|0x|[^0-9a-fA-F]", "", match.group())
        yield from _printable(bytes.fromhex(digits[: len(digits) // 2 * 2]))


def _binary(text: str) -> Iterator[str]:
    for match in _BINARY.finditer(text):
        groups = match.group().replace(",", " ").split()
        if len(groups) == 1:
            bits = groups[0]
            groups = [bits[i : i + 8] for i in range(0, len(bits) - 7, 8)]
        yield from _printable(bytes(int(group, 2) for group in groups if len(group) <= 8))


def _decimal(text: str) -> Iterator[str]:
    for match in _DECIMAL.finditer(text):
        codes = [int(code) for code in re.findall(r"\d+", match.group())]
        if all(code < 256 for code in codes):
            yield from _printable(bytes(codes))


def _percent(text: str) -> Iterator[str]:
    if _PERCENT.search(text):
        yield urllib.parse.unquote(text, errors="replace")


def _escapes(text: str) -> Iterator[str]:
    if len(_ESCAPE.findall(text)) >= 3:
        yield _ESCAPE.sub(lambda m: chr(min(int(m[1] or m[2] or m[3], 16), 0xFFFF)), text)


def _entities(text: str) -> Iterator[str]:
    if len(_ENTITY.findall(text)) >= 3:
        yield html.unescape(text)


def _morse(text: str) -> Iterator[str]:
    for match in _MORSE.finditer(text):
        signs = match.group().replace("·", ".").replace("•", ".")
        words = re.split(r"\s*[/|]\s*|\s{2,}", signs)
        yield " ".join("".join(_MORSE_CODES.get(s, "") for s in word.split()) for word in words)


def _caesar(folded: str) -> Iterator[str]:
    words = set(re.findall(r"[a-z]+", folded))
    for table, encoded in _SHIFTS:
        # Looking for a few encoded words is cheaper than decoding the text.
        if len(words & encoded) >= 3:
            yield folded.translate(table)


def _leet(folded: str) -> Iterator[str]:
    if len(_LEET_WORD.findall(folded)) < 3:
        return
    reading = _BANG.sub("i", folded).translate(_LEET)
    yield reading
    if "1" in folded or "|" in folded:
        yield _BANG.sub("i", folded.replace("1", "l").replace("|", "l")).translate(_LEET)


def _spaced(folded: str) -> Iterator[str]:
    """Runs of single letters joined; a wider gap is taken for one between words."""
    for match in _SPACED.finditer(folded):
        words = re.split(r"\s{2,}|\s[/|_]\s|[\n]", match.group())
        yield " ".join(re.sub(r"[\W_]+", "", word) for word in words)
    for match in _HAN_SPACED.finditer(folded):
        yield re.sub(r"[\W_]+", "", match.group())


_DECODERS: tuple[tuple[str, Callable[[str], Iterator[str]]], ...] = (
    ("base64", _base64),
    ("base32", _base32),
    ("hexadecimal", _hex),
    ("binary", _binary),
    ("character codes", _decimal),
    ("percent encoding", _percent),
    ("escapes", _escapes),
    ("HTML entities", _entities),
    ("Morse code", _morse),
)
