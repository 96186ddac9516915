"""English and Chinese words of the sample tasks."""

from __future__ import annotations

COLOURS = {
    "red": "红色",
    "blue": "蓝色",
    "green": "绿色",
    "yellow": "黄色",
    "black": "黑色",
    "white": "白色",
    "pink": "粉色",
    "brown": "棕色",
    "grey": "灰色",
    "purple": "紫色",
}
ANIMALS = {
    "cat": "猫",
    "dog": "狗",
    "fish": "鱼",
    "bird": "鸟",
    "horse": "马",
    "cow": "牛",
    "sheep": "羊",
    "pig": "猪",
    "duck": "鸭",
    "tiger": "虎",
    "snake": "蛇",
    "mouse": "鼠",
}
DAYS = {
    "Monday": "星期一",
    "Tuesday": "星期二",
    "Wednesday": "星期三",
    "Thursday": "星期四",
    "Friday": "星期五",
    "Saturday": "星期六",
    "Sunday": "星期日",
}
_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_ONES_ZH = "零一二三四五六七八九"


def number_in_english(number: int) -> str:
    """0 to 30 in words: 21 -> `twenty-one`."""
    if number < 20:
        return _ONES[number]
    tens = {2: "twenty", 3: "thirty"}[number // 10]
    return tens if number % 10 == 0 else f"{tens}-{_ONES[number % 10]}"


def number_in_chinese(number: int) -> str:
    """0 to 30 in words: 21 -> `二十一`."""
    if number < 10:
        return _ONES_ZH[number]
    tens = "" if number < 20 else _ONES_ZH[number // 10]
    ones = "" if number % 10 == 0 else _ONES_ZH[number % 10]
    return f"{tens}十{ones}"
