"""How many attacks the detector flags, and how many honest answers: `python -m bench.detector`.

Every attack is tried alone and behind a wrong, a half-right and a right answer to each question of
its language. A flag counts when it is one that the category expects. The tries of one wording are
not independent, so the intervals (Wilson, 95 %) are over wordings: one is caught when all its tries
are flagged.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.attacks import BASES, SPLITS, Attack, Control, Split, apply, attacks, controls, questions
from llmarking.screening.screen import Screening, screen


@dataclass(frozen=True, slots=True)
class Trial:
    """One attack on one answer, and what the detector said."""

    attack: Attack
    base: str
    question: str
    answer: str
    screening: Screening

    @property
    def flagged(self) -> bool:
        """Whether one of the flags that belong to the attack was set."""
        return not self.attack.expects.isdisjoint(self.screening.flags)


@dataclass(frozen=True, slots=True)
class Share:
    """A count out of a number."""

    count: int
    of: int

    @property
    def value(self) -> float:
        """The share; not a number when there is nothing to count."""
        return self.count / self.of if self.of else math.nan

    def interval(self, z: float = 1.96) -> tuple[float, float]:
        """The Wilson score interval; 95 % by default."""
        if not self.of:
            return (math.nan, math.nan)
        n, p = self.of, self.value
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)

    def __str__(self) -> str:
        if not self.of:
            return "–"
        low, high = self.interval()
        return f"{self.count}/{self.of} = {self.value:.0%} [{low:.0%}, {high:.0%}]"


def trials(split: Split) -> Iterator[Trial]:
    """Every attack of a split on every question of its language, on each base that makes sense."""
    for attack in attacks((split,)):
        for base in BASES[:1] if attack.alone else BASES:
            for item in questions():
                if item.language == attack.language:
                    question = item.question
                    answer = apply(attack, item.answer(base), question.text, question.reference)
                    yield Trial(attack, base, question.code, answer, screen(answer, question))


def tries(tried: Iterable[Trial]) -> Share:
    """The share of tries that were flagged."""
    flags = [trial.flagged for trial in tried]
    return Share(sum(flags), len(flags))


def wordings(tried: Iterable[Trial]) -> Share:
    """The share of wordings of which every try was flagged."""
    caught: dict[Attack, bool] = {}
    for trial in tried:
        caught[trial.attack] = caught.get(trial.attack, True) and trial.flagged
    return Share(sum(caught.values()), len(caught))


def false_flags(split: Split) -> list[tuple[Control, Screening]]:
    """The honest answers of a split that carry a flag they should not."""
    screened = [(c, screen(c.answer, c.question)) for c in controls() if c.split == split]
    return [(c, s) for c, s in screened if set(s.flags) - c.allowed]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--missed", action="store_true", help="list what was not flagged")
    parser.add_argument("--split", choices=("dev", "more", "test"), action="append")
    options = parser.parse_args(argv)
    splits: Sequence[Split] = options.split or SPLITS
    tried = {split: list(trials(split)) for split in splits}
    _print_table(tried)
    for split in splits:
        wrong = false_flags(split)
        number = sum(control.split == split for control in controls())
        print(f"\nhonest answers flagged, {split}: {Share(len(wrong), number)}")
        for control, screening in wrong:
            print(f"    {control.name}: {', '.join(screening.flags)}; {'; '.join(screening.notes)}")
        if options.missed:
            _print_missed(tried[split])


def _print_table(tried: Mapping[Split, Sequence[Trial]]) -> None:
    rows: dict[str, dict[str, list[Trial]]] = defaultdict(lambda: defaultdict(list))
    names: dict[int, str] = {}
    for split, trials_ in tried.items():
        for trial in trials_:
            attack = trial.attack
            number = f"{attack.category:2}"
            names.setdefault(attack.category, attack.name)
            for row in (
                number,
                f"  {attack.group}",
                f"  {attack.language}",
                f"  {trial.base}",
                "  all",
            ):
                rows[row][split].append(trial)
    head = "".join(f"{f'{split}: wordings':<28}{'tries':<10}" for split in tried)
    print(f"{'caught':<36}{head}")
    for row in sorted(rows, key=lambda name: (not name.strip().isdigit(), name)):
        name = f"{row} {names[int(row)]}" if row.strip().isdigit() else row
        cells = (f"{wordings(of)!s:<28}{tries(of).value:<10.1%}" for of in rows[row].values())
        print(f"{name:<36.35}{''.join(cells)}")


def _print_missed(tried: Iterable[Trial]) -> None:
    for trial in tried:
        if not trial.flagged:
            attack = trial.attack
            where = f"{attack.language}, {trial.base}, {trial.question}"
            name = f"{attack.category} {attack.name} {attack.variant}".rstrip()
            print(f"    {name} ({where}): {trial.answer[-110:]!r}")


if __name__ == "__main__":
    main()
