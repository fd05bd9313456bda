"""What a text must hold for a pattern to match: cheap to look for, before the pattern is tried."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# Python's own reading of patterns. It is not promised to stay: without it nothing is left out.
ops: Any = getattr(re, "_constants", None)
parser: Any = getattr(re, "_parser", None)

# Of each group of words or signs, a match has at least one.
Groups = list[frozenset[str]]
_MOST_SIGNS = 24
_KEPT = 2


@dataclass(frozen=True, slots=True)
class Guarded:
    """A pattern, and groups of words or signs of which every match has one each."""

    pattern: re.Pattern[str]
    needs: tuple[tuple[str, ...], ...]

    @classmethod
    def compile(cls, source: str) -> Guarded:
        """Compile a pattern without flags and find out what it needs."""
        groups = [] if parser is None else _needs(parser.parse(source))
        rarest = sorted(set(groups), key=_rarity, reverse=True)[:_KEPT]
        return cls(re.compile(source), tuple(tuple(sorted(group)) for group in rarest))

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where the pattern matches."""
        for group in self.needs:
            for word in group:
                if word in text:
                    break
            else:
                return []
        return [match.span() for match in self.pattern.finditer(text)]


def _rarity(group: frozenset[str]) -> tuple[int, int, list[str]]:
    """The more the rarer: signs are seldom seen in an answer, then the longer a word the better."""
    return min(_weight(word) for word in group), -len(group), sorted(group)


def _weight(word: str) -> int:
    return 4 if not re.fullmatch(r"[a-z0-9\s.,'-]+", word) else len(word)


def _needs(sequence: Iterable[tuple[Any, Any]]) -> Groups:
    groups: Groups = []
    run = ""
    for op, argument in sequence:
        if op is ops.LITERAL:
            run += chr(argument)
            continue
        if run:
            groups.append(frozenset({run}))
            run = ""
        if op is ops.IN:
            signs = [chr(value) for kind, value in argument if kind is ops.LITERAL]
            if len(signs) == len(argument) <= _MOST_SIGNS:
                groups.append(frozenset(signs))
        elif op is ops.BRANCH:
            branches = [_needs(branch) for branch in argument[1]]
            if all(branches):
                groups.append(frozenset().union(*(max(b, key=_rarity) for b in branches)))
        elif op is ops.SUBPATTERN:
            groups += _needs(argument[-1])
        elif op in (ops.MAX_REPEAT, ops.MIN_REPEAT, ops.POSSESSIVE_REPEAT) and argument[0] > 0:
            groups += _needs(argument[2])
    if run:
        groups.append(frozenset({run}))
    return groups
