"""What a question is about, so that answers may speak of it: of attacks, marks, tokens or logic."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from llmarking.screening.normalising import fold

# Words with which an honest answer quotes an attack, or with which a question asks about them.
_ABOUT_ATTACKS = re.compile(
    r"attack|inject|jailbreak|malicious|adversar|exploit|hacker|untrusted|phishing|vulnerab|prompt"
    r"|security|language model|\bllm|chatbot|system message"
    r"|攻击|注入|恶意|越狱|漏洞|提示词|安全|大模型|语言模型|钓鱼"
)
_FUNCTION_WORDS = frozenset(
    (
        "the and for are was were that thi with from what why how doe which have has had not but "
        "you your hi her their they can will when who one all any every each into onto than then "
        "there these those some more most mu must should would could being been out off per via our"
    ).split()
)
# A course on language models speaks of their tokens.
_ABOUT_TOKENS = re.compile(r"token|template|<\||</s>|标记|模板")
# Answers in programming and logic say true and false.
_ABOUT_LOGIC = re.compile(
    r"\b(?:true|false|python|java|code|programs?|functions?|boolean|logic\w{0,3}|algorithms?|pseudocode"
    r"|return|loops?|sql|statements?|unit test\w{0,4})\b"
    r"|程序|代码|函数|布尔|伪代码|逻辑|判断|算法|命题"
)
# A course on teaching speaks of marks.
_ABOUT_MARKING = re.compile(
    r"\b(?:mark|grad)(?:ing|ers?)\b|rubric|assessment|\bexams?\b|teachers?\b|teaching"
    r"|feedback|\braters?\b|pedagog|评分|阅卷|考试|教师|教学|打分|评价|反馈"
)


@dataclass(frozen=True, slots=True)
class Topic:
    """What the question is about: words it uses are no sign of manipulation in its answers."""

    words: frozenset[str] = frozenset()
    attacks: bool = False
    tokens: bool = False
    marking: bool = False
    logic: bool = False

    def names(self, phrase: str) -> bool:
        """Whether the question uses a word of the phrase."""
        return bool(self.words) and not self.words.isdisjoint(_content(phrase))

    def share(self, phrase: str) -> float:
        """The share of the words of a phrase that the question uses."""
        words = _content(phrase)
        return len(words & self.words) / len(words) if words and self.words else 0.0

    @classmethod
    @lru_cache(maxsize=256)
    def of(cls, *texts: str) -> Topic:
        """The topic of a question from its text and reference answer."""
        folded = fold("\n".join(texts))
        return cls(
            frozenset(_content(folded)),
            attacks=bool(_ABOUT_ATTACKS.search(folded)),
            tokens=bool(_ABOUT_TOKENS.search(folded)),
            marking=bool(_ABOUT_MARKING.search(folded)),
            logic=bool(_ABOUT_LOGIC.search(folded)),
        )


def _content(folded: str) -> set[str]:
    """The words that say what a text is about; of Chinese every pair of signs."""
    words = {word.rstrip("s") for word in re.findall(r"[^\W\d_\u3040-\u9fff]{3,}", folded)}
    pairs = (
        run[i : i + 2]
        for run in re.findall(r"[\u3400-\u9fff]{2,}", folded)
        for i in range(len(run) - 1)
    )
    return words - _FUNCTION_WORDS | set(pairs)


NO_TOPIC = Topic()
