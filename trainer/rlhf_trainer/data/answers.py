"""Is an answer right, and is it a refusal? The checker behind `exact_match`: it is never a reward, only a measure.

Used by the evaluation of SFT, PPO and Quantize on rows that carry an `answer`, and by the statistics of Prepare.
"""

from __future__ import annotations

REFUSALS = ("I do not know.", "我不知道。")
"""The unhelpful answers of the built-in data, English and Chinese."""


def is_exact_match(text: str, answer: str) -> bool:
    """True when the text is the answer, but for white space around it. Case and punctuation count."""
    return text.strip() == answer.strip()


def is_refusal(text: str) -> bool:
    """True when the text declines to answer, with or without its final stop."""
    return text.strip().rstrip(".。") in {refusal.rstrip(".。") for refusal in REFUSALS}


def language_of(text: str) -> str:
    """`zh` when at least 30 % of the letters are Chinese characters, else `en`.

    Half would be too many: `Translate to Chinese: 红` is English, but `用英文写 twelve。` is Chinese with six Latin letters of nine.
    """
    letters = [character for character in text if character.isalpha()]
    chinese = sum("\u3400" <= character <= "\u9fff" for character in letters)
    return "zh" if letters and chinese >= 0.3 * len(letters) else "en"
