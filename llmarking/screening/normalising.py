"""A clean copy of a student's text: the same words, nothing invisible, no floods.

Two copies are made, for two readers. `clean` gives the one that is graded: it keeps all that
carries meaning, so superscripts, fractions, circled numbers and full-width punctuation stay (NFKC
would turn `x²` into `x2`, and full-width look-alikes of control tokens into the tokens). `fold`
gives the one that only rules look at, where everything that reads alike is spelt alike.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

# Combining marks that stack on Latin letters; other scripts need theirs and are left alone.
_STACKED = "\u0300-\u036f\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
_PILE = re.compile(f"[{_STACKED}]{{3,}}")
_HARAKAT = "\u0640\u064b-\u0652\u0670"
_MARKS = re.compile(f"[{_STACKED}{_HARAKAT}]+")

_ZERO_WIDTH = "\u200b-\u200d\u2060\ufeff\u180e\u034f\u206a-\u206f\ufff9-\ufffb\u17b4\u17b5"
_BLANK_LETTERS = "\u115f\u1160\u3164\uffa0"
_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_TAGS = "\U000e0000-\U000e007f"
_SELECTORS = "\ufe00-\ufe0f\U000e0100-\U000e01ef"
_CONTROLS = "\x00-\x08\x0e-\x1f\x7f\x81\x8d\x8f\x90\x9d"
_SOFT = "\xad\u2061-\u2064"
_INVISIBLE = re.compile(
    f"[{_ZERO_WIDTH}{_BLANK_LETTERS}{_BIDI}{_TAGS}{_SELECTORS}{_CONTROLS}{_SOFT}]+"
)
# What of these an ASCII text can hold.
_ASCII_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f]+")
_BLANKS = re.compile(r"[^\S\n]+")
_KINDS = (
    (re.compile(f"[{_TAGS}]"), "tag characters"),
    (re.compile(f"[{_SELECTORS}]"), "variation selectors"),
    (re.compile("[\u202a-\u202e]"), "direction overrides"),
    (re.compile(f"[{_CONTROLS}]"), "control characters"),
    (re.compile(f"[{_BLANK_LETTERS}]"), "blank letters"),
    (re.compile("(?s:.)"), "zero-width characters"),
)

# Invisible characters with an honest use: emoji, joined scripts, ideograph variants, three flags.
_EMOJI = re.compile(
    "[\u2190-\u21ff\u2300-\u27bf\u2900-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff]"
)
_JOINED_SCRIPT = re.compile(
    "[\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff\u0900-\u0dff\u1780-\u17ff\u1800-\u18af]"
)
_UNSPACED_SCRIPT = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
_RTL = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_REGIONS = frozenset(
    "".join(chr(0xE0000 + ord(c)) for c in region) + "\U000e007f"
    for region in ("gbeng", "gbsct", "gbwls")
)
_QUIET = re.compile(f"[{_SOFT}\u061c\u200e\u200f\u2066-\u2069]{{1,3}}")
_PASTED = re.compile("[\u200b\u2060\ufeff]")

_OVERRIDDEN = re.compile("\u202e([^\u202c\u2069\n]{4,2000})")
_SURROGATE = re.compile("[\ud800-\udfff]")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
# More invisible characters than any honest text has; they go without a look at their neighbours.
_SWARM = 5000


def _safe_forms() -> dict[int, str]:
    """Compatibility forms of letters and digits only; what carries meaning stays."""
    ranges = (
        (0xFB00, 0xFB06),  # ligatures
        (0xFB50, 0xFDF9),  # Arabic presentation forms
        (0xFE70, 0xFEFC),
        (0xFF10, 0xFF19),  # full-width digits and letters
        (0xFF21, 0xFF3A),
        (0xFF41, 0xFF5A),
        (0x1D400, 0x1D7FF),  # mathematical alphabets, popular as fancy fonts
    )
    table = {
        code: form
        for first, last in ranges
        for code in range(first, last + 1)
        if (form := unicodedata.normalize("NFKC", chr(code))) != chr(code) and form.isalnum()
    }
    table |= dict.fromkeys((0xA0, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000, 0x1680), " ")
    table |= dict.fromkeys((0x0B, 0x0C, 0x1C, 0x1D, 0x1E, 0x2028, 0x2029), "\n")
    # A Windows text read as Latin-1 has its quotes and dashes here.
    for code in range(0x80, 0xA0):
        if decoded := bytes([code]).decode("cp1252", "ignore"):
            table[code] = decoded
    return table


_SAFE_FORMS = _safe_forms()

_LATIN = "abcdefghijklmnopqrstuvwxyz"
# By the Latin letter they pass for: Cyrillic, Greek, Armenian, small capitals, Cherokee.
_LOOKALIKES = {
    "a": "аӓαɑᴀꭺ", "b": "ьвβʙ", "c": "сϲᴄꮯ", "d": "ԁᴅđ", "e": "еёεᴇꭼ",
    "f": "ꜰƒ", "g": "ցɡɢ", "h": "һнհʜħꮋ", "i": "іїιıɩɪꭵ", "j": "јϳᴊ",
    "k": "кκᴋ", "l": "ӏʟǀⅼł", "m": "мᴍꮇ", "n": "пηոɴ", "o": "оοσօᴏø\uab8e",
    "p": "рρᴘꮲ", "q": "ԛզ", "r": "гʀꭱ", "s": "ѕςꜱꮪ", "t": "тτᴛŧꭲ",
    "u": "цυμսᴜ", "v": "ѵνᴠ", "w": "ԝшωᴡꮃ", "x": "хχ", "y": "уүγʏ", "z": "ζᴢꮓ",
}  # fmt: skip
_LOOKALIKE_TABLE = {
    ord(letter): latin for latin, letters in _LOOKALIKES.items() for letter in letters
} | {
    first + offset: letter
    for first in (0x1F130, 0x1F150, 0x1F170, 0x1F1E6)  # squared, negative and regional letters
    for offset, letter in enumerate(_LATIN)
}
_QUOTES = {
    ord(sign): plain
    for sign, plain in zip(
        "“”„‟«»‘’‚‛`´′″‐‑‒–—−",
        "\"\"\"\"\"\"''''''''------",
        strict=True,
    )
}

_WORD = re.compile(r"[^\W\d_]{3,}")
_DISGUISES = re.compile("[\u0400-\u052f\u0531-\u0587\u13a0-\u13ff\uab70-\uabbf\u1d00-\u1d22]")
_GREEK_DISGUISES = frozenset("αενικορτυχΑΒΕΖΗΙΚΜΝΟΡΤΥΧ")

# Words, single ideographs and signs, with the space behind them: the units of which repeats are
# made. Long words are cut, so that a flood without spaces is found too.
_UNIT = re.compile(r"(?:[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]{1,16}|[\W_])\s*")
_GRAM = 8
_COPIES = 6
_FLOOD = 200


@dataclass(frozen=True, slots=True)
class Cleaned:
    """The copy to grade, and what was taken out of it.

    Attributes:
        hidden: kinds of characters that a reader could not have seen.
        smuggled: messages that those characters spelt.
        collapsed: how many characters of repeats were left out.
    """

    text: str
    hidden: tuple[str, ...] = ()
    smuggled: tuple[str, ...] = ()
    collapsed: int = 0


def clean(raw: str) -> Cleaned:
    """Make the copy of an answer that is graded; `clean(clean(x).text).text` is `clean(x).text`."""
    hidden: list[str] = []
    smuggled: list[str] = []
    text = _join_surrogates(raw, hidden)
    smuggled += [match[1][::-1] for match in _OVERRIDDEN.finditer(text)]
    collapsed = 0
    # Taking something out can bring together what belongs together: until nothing changes.
    while True:
        before = text
        text = _strip_invisible(text, hidden, smuggled)
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        text = unicodedata.normalize("NFC", _translate(text, _SAFE_FORMS))
        if _PILE.search(text):
            hidden.append("stacked accents")
            text = _PILE.sub("", text)
        text = _tidy_space(text)
        shorter = _collapse(text)
        collapsed += len(text) - len(shorter)
        text = shorter
        if text == before:
            break
    if _has_lookalikes(text):
        hidden.append("look-alike letters")
    return Cleaned(text, tuple(dict.fromkeys(hidden)), tuple(dict.fromkeys(smuggled)), collapsed)


def fold(text: str) -> str:
    """The copy for rules: compatibility forms, case, accents, quotes and blanks made one."""
    if text.isascii():
        # The same in a tenth of the time: of all that is done below, this concerns ASCII.
        text = _ASCII_CONTROLS.sub("", text).replace("`", "'").lower()
    else:
        text = _translate(_INVISIBLE.sub("", text), _QUOTES)
        text = unicodedata.normalize("NFKD", text).casefold()
        text = _translate(unicodedata.normalize("NFKC", _MARKS.sub("", text)), _QUOTES)
    return _BLANKS.sub(" ", text)


def unmask(folded: str) -> str:
    """Letters of other alphabets that look Latin, replaced by the Latin ones."""
    return folded if folded.isascii() else _translate(folded, _LOOKALIKE_TABLE)


def _translate(text: str, table: Mapping[int, str]) -> str:
    """`text.translate(table)` for tables whose results hold nothing that they replace.

    Few texts hold more than a handful of such characters, and `str.translate` looks at each.
    """
    for sign in set(text):
        if (found := table.get(ord(sign))) is not None:
            text = text.replace(sign, found)
    return text


def _join_surrogates(text: str, hidden: list[str]) -> str:
    if not _SURROGATE.search(text):
        return text
    joined = _PAIR.sub(lambda m: m.group().encode("utf-16", "surrogatepass").decode("utf-16"), text)
    joined, broken = _SURROGATE.subn("\ufffd", joined)
    # A form that cuts at a length can leave half an emoji at the end; that is nobody's trick.
    if broken > (1 if "\ud800" <= text[-1] <= "\udbff" else 0):
        hidden.append("control characters")
    return joined


def _strip_invisible(text: str, hidden: list[str], smuggled: list[str]) -> str:
    if not (_ASCII_CONTROLS if text.isascii() else _INVISIBLE).search(text):
        return text
    if len(_INVISIBLE.findall(text)) > _SWARM:
        hidden.append("zero-width characters")
        return _INVISIBLE.sub("", text)
    rtl: bool | None = None

    def replace(match: re.Match[str]) -> str:
        nonlocal rtl
        run, (start, end) = match.group(), match.span()
        before, after = text[start - 1 : start], text[end : end + 1]
        if kept := _honest(run, before, after):
            return kept
        if _QUIET.fullmatch(run) or (start == 0 and run == "\ufeff"):
            return ""
        if _PASTED.fullmatch(run) and not (before.isalnum() and after.isalnum()):
            return ""
        if run == "\u200b" and _UNSPACED_SCRIPT.match(before) and _UNSPACED_SCRIPT.match(after):
            return ""
        if rtl is None:
            rtl = bool(_RTL.search(text))
        if rtl and not re.search(f"[^{_BIDI}\u200c\u200d]|[\u202d\u202e]", run):
            return ""
        hidden.append(next(name for pattern, name in _KINDS if pattern.search(run)))
        smuggled.extend(_messages(run))
        return ""

    return _INVISIBLE.sub(replace, text)


def _honest(run: str, before: str, after: str) -> str:
    """The run itself where it has an honest use between its neighbours, else nothing."""
    if before == "\U0001f3f4" and run in _REGIONS:
        return run
    emoji = bool(_EMOJI.match(before) or before in "#*0123456789©®‼⁉™ℹ") and before != ""
    if run in ("\ufe0f", "\ufe0e") and emoji:
        return run
    if run in ("\u200d", "\ufe0f\u200d") and emoji and _EMOJI.match(after):
        return run
    if run in ("\u200c", "\u200d") and _JOINED_SCRIPT.match(before):
        return run if _JOINED_SCRIPT.match(after) else ""
    if len(run) == 1 and _HAN.match(before) and re.match(f"[{_SELECTORS}]", run):
        return run
    return ""


def _messages(run: str) -> Iterator[str]:
    """Texts that a run of invisible characters spells in the ways that are in use."""
    codes = [ord(c) for c in run]
    tags = "".join(chr(c - 0xE0000) for c in codes if 0xE0020 <= c < 0xE007F)
    if len(tags) > 3:
        yield tags
    selectors = bytes(
        c - 0xFE00 if c < 0xFE10 else c - 0xE0100 + 16
        for c in codes
        if 0xFE00 <= c < 0xFE10 or 0xE0100 <= c < 0xE01F0
    )
    if len(selectors) > 3:
        yield selectors.decode("utf-8", "replace")
    signs = sorted(set(codes))
    if len(codes) >= 32 and 2 <= len(signs) <= 3:
        for zero, one in ((signs[0], signs[1]), (signs[1], signs[0])):
            bits = "".join("0" if c == zero else "1" for c in codes if c in (zero, one))
            octets = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits) - 7, 8))
            yield octets.decode("utf-8", "replace")


def _tidy_space(text: str) -> str:
    text = re.sub(r"[^\S\n]++\n", "\n", text)
    text = re.sub(r"\n{3,}", "\n\n", text)
    # Wide gaps push text off the screen; sixteen blanks still hold a table or an indented line.
    return re.sub(r" {17,}", " " * 16, text).strip()


def _collapse(text: str) -> str:
    """Leave two copies of what is said six times in a row or more, and takes up room.

    A repeat of period p shows as windows of eight units whose last occurrence lies p units
    back, all along: one pass with a dictionary, linear in the text.
    """
    if len(text) < _FLOOD:
        return text
    units = _UNIT.findall(text)
    if not units:
        return text
    keys = [unit.strip() for unit in units]
    last: dict[tuple[str, ...], int] = {}
    drop: list[tuple[int, int]] = []
    period = start = 0
    for i in range(len(keys) - _GRAM + 2):
        gram = tuple(keys[i : i + _GRAM])
        whole = len(gram) == _GRAM
        distance = i - last.get(gram, i) if whole else 0
        last[gram] = i
        if distance == period and whole:
            continue
        if period:
            # Windows start…i-1 repeat with this period, so units start-period…i+GRAM-2 do.
            first, stop = start - period, i + _GRAM - 1
            copies = (stop - first) // period
            if copies >= _COPIES:
                drop.append((first + 2 * period, first + copies * period))
        period, start = distance, i
    kept: list[str] = []
    position = 0
    for first, stop in drop:
        if first < position or sum(map(len, units[first:stop])) < _FLOOD:
            continue
        kept += units[position:first]
        position = stop
    if not position:
        return text
    head = _UNIT.search(text)
    assert head is not None
    return (text[: head.start()] + "".join(kept + units[position:])).rstrip()


def _has_lookalikes(text: str) -> bool:
    """Whether words mix Latin with letters that only look Latin, other than symbols do."""
    if text.isascii():
        return False
    return any(_is_disguised(word) for word in _WORD.findall(text) if not word.isascii())


def _is_disguised(word: str) -> bool:
    if not re.search("[A-Za-z]", word):
        return False
    if _DISGUISES.search(word):
        return True
    # Greek letters begin and end formula words: μmol, Δx, Nα. Inside a word they pretend.
    return any(c in _GREEK_DISGUISES for c in word[1:-1])
