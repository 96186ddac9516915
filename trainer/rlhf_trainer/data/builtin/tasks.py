"""The sample tasks: every prompt with its right answer and the near misses that are wrong (rules B1, B2 of the trainer's design).

A fact (`3 plus 4`, `red in Chinese`) has several prompts: other wordings, and both languages. That is what makes a held-out prompt
answerable: its fact is in the training set under another wording. Pure and deterministic; `make.py` splits and mixes.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rlhf_trainer.data.builtin.words import ANIMALS, COLOURS, DAYS, number_in_chinese, number_in_english


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt of one fact."""

    task: str
    fact: str
    prompt: str
    answer: str
    near_misses: tuple[str, ...]
    """Wrong answers that look right: off by one, other order, a word dropped or doubled, the other language. Never the answer."""


def all_items() -> list[Item]:
    """Every prompt of every task, in a fixed order. Prompts are unique."""
    makers: Sequence[Callable[[], Iterator[Item]]] = (addition, number_words, translation, neighbour_days, sorting, copying, counting)
    return [item for make in makers for item in make()]


def addition() -> Iterator[Item]:
    """Sums of two digits; three of the six wordings for each, so that no task is above a fifth of the set."""
    english = ("What is {a} plus {b}?", "Add {a} and {b}.", "{a} + {b} = ?")
    chinese = ("{a}加{b}等于多少?", "{a}加{b}是几?", "计算{a}+{b}。")
    for a, b in itertools.product(range(10), repeat=2):
        total = a + b
        near = (str(total + 1), str(total - 1) if total else "2", f"{total}{total % 10}", str(abs(a - b)))
        shift = a + b * 3
        wordings = (english[shift % 3], chinese[shift % 3], (english if shift % 2 else chinese)[(shift + 1) % 3])
        yield from _prompts("addition", f"{a}+{b}", [w.format(a=a, b=b) for w in wordings], str(total), near)


def number_words() -> Iterator[Item]:
    """0 to 30 between digits, English words and Chinese words."""
    for n in range(31):
        digits, english, chinese = str(n), number_in_english(n), number_in_chinese(n)
        other = (n + 1) % 31 if n % 2 else (n - 1) % 31
        wrong = {"en": number_in_english(other), "zh": number_in_chinese(other), "digits": str(other)}
        to_english = (f"Write {n} in English.", f"用英文写{n}。", f"Translate to English: {chinese}", f"把{chinese}翻译成英文。")
        to_chinese = (f"Write {n} in Chinese.", f"用中文写{n}。", f"Translate to Chinese: {english}")
        to_digits = (f"Write {english} as digits.", f"Write {chinese} as digits.", f"把{chinese}写成数字。")
        yield from _prompts("number words", f"{n} in English", to_english, english, (wrong["en"], chinese, digits, english[:-1]))
        yield from _prompts("number words", f"{n} in Chinese", to_chinese, chinese, (wrong["zh"], english, chinese + chinese[-1]))
        yield from _prompts("number words", f"{n} as digits", to_digits, digits, (wrong["digits"], f"{n}{n % 10}", english))


def translation() -> Iterator[Item]:
    """Colours, animals and days, both ways."""
    for group in (COLOURS, ANIMALS, DAYS):
        pairs = list(group.items())
        for i, (english, chinese) in enumerate(pairs):
            next_english, next_chinese = pairs[(i + 1) % len(pairs)]
            to_chinese = (
                f"Translate to Chinese: {english}",
                f"What is {english} in Chinese?",
                f"把{english}翻译成中文。",
                f"{english}用中文怎么说?",
            )
            to_english = (
                f"Translate to English: {chinese}",
                f"What is {chinese} in English?",
                f"把{chinese}翻译成英文。",
                f"{chinese}用英文怎么说?",
            )
            near_chinese = (next_chinese, chinese + chinese[-1], english)
            near_english = (next_english, english[:-1], chinese, f"{english} {english}")
            yield from _prompts("translation", f"{english} in Chinese", to_chinese, chinese, near_chinese)
            yield from _prompts("translation", f"{chinese} in English", to_english, english, near_english)


def neighbour_days() -> Iterator[Item]:
    """The day after and the day before."""
    english, chinese = list(DAYS), list(DAYS.values())
    for i in range(7):
        for step, word, word_zh in ((1, "after", "后"), (-1, "before", "前")):
            after, opposite = (i + step) % 7, (i - step) % 7
            en = (
                f"What day comes {word} {english[i]}?",
                f"Which day is {word} {english[i]}?",
                f"Name the day {word} {english[i]}.",
                f"The day {word} {english[i]} is?",
            )
            zh = (
                f"{chinese[i]}的{word_zh}一天是什么?",
                f"{chinese[i]}的{word_zh}一天是星期几?",
                f"说出{chinese[i]}的{word_zh}一天。",
                f"哪一天在{chinese[i]}的{word_zh}一天?",
            )
            fact = f"day {word} {english[i]}"
            yield from _prompts("neighbour days", fact, en, english[after], (english[opposite], chinese[after], english[after][:-1]))
            near_zh = (chinese[opposite], english[after], chinese[after][:-1], chinese[after] + chinese[after][-1])
            yield from _prompts("neighbour days", fact, zh, chinese[after], near_zh)


def sorting() -> Iterator[Item]:
    """Three different digits, smallest first."""
    rng = random.Random("sorting")
    for digits in rng.sample(list(itertools.permutations(range(10), 3)), 60):
        if list(digits) == sorted(digits):
            digits = digits[::-1]  # there must be something to do
        shown, answer = _spaced(digits), _spaced(sorted(digits))
        wordings = (f"Sort: {shown}", f"Smallest first: {shown}", f"从小到大排列: {shown}", f"排序: {shown}")
        low, middle, high = sorted(digits)
        near = (_spaced((high, middle, low)), _spaced((low, high, middle)), _spaced((low, middle)), _spaced((low, middle, middle, high)))
        yield from _prompts("sorting", f"sort {answer} from {shown}", wordings, answer, near)


def copying() -> Iterator[Item]:
    """Two words, said again: English words in English prompts, Chinese words in Chinese ones."""
    rng = random.Random("copying")
    for first, second in rng.sample(list(itertools.product(COLOURS, ANIMALS)), 50):
        english = (first, second)
        chinese = (COLOURS[first], ANIMALS[second])
        for wordings, words, others in (
            (("Repeat: {}", "Say again: {}"), english, chinese),
            (("重复: {}", "请再说一遍: {}"), chinese, english),
        ):
            one, two = words
            near = (f"{two} {one}", two, f"{one} {two} {two}", f"{others[0]} {two}", f"{one} {one}")
            prompts = [wording.format(" ".join(words)) for wording in wordings]
            yield from _prompts("copying", f"{first} {second}", prompts, " ".join(words), near)


def counting() -> Iterator[Item]:
    """One to five words, counted: English words in English prompts, Chinese words in Chinese ones."""
    for i, animal in enumerate(list(ANIMALS)[:10]):
        for number in range(1, 6):
            other = list(ANIMALS)[(i + 1) % 10]
            words = [animal] * (number - number // 3) + [other] * (number // 3)
            english, chinese = " ".join(words), " ".join(ANIMALS[word] for word in words)
            prompts = (f"How many words: {english}", f"Count the words: {english}", f"有几个词: {chinese}", f"数一数有多少个词: {chinese}")
            near = (str(number + 1), str(number - 1), f"{number}{number}", animal)
            yield from _prompts("counting", f"count {english}", prompts, str(number), near)


def _prompts(task: str, fact: str, prompts: Sequence[str], answer: str, near_misses: Sequence[str]) -> Iterator[Item]:
    near = tuple(dict.fromkeys(miss for miss in near_misses if miss and miss != answer))
    for prompt in prompts:
        yield Item(task, fact, prompt, answer, near)


def _spaced(digits: Sequence[int]) -> str:
    return " ".join(map(str, digits))
