"""Kubernetes quantities as the API allows them (CPU `8` or `500m`, memory with binary units): multiplied and added exactly."""

import re
from fractions import Fraction

_UNITS = {"Mi": 1, "Gi": 1024, "Ti": 1024**2, "Pi": 1024**3}


def mebibytes(memory: str) -> int:
    """64Gi -> 65536"""
    return int(memory[:-2]) * _UNITS[memory[-2:]]


def memory_of(mebibytes: int) -> str:
    """The quantity in the largest unit that is exact: 65536 -> 64Gi, 1536 -> 1536Mi."""
    for unit in ("Pi", "Ti", "Gi"):
        if mebibytes % _UNITS[unit] == 0:
            return f"{mebibytes // _UNITS[unit]}{unit}"
    return f"{mebibytes}Mi"


def times_memory(memory: str, factor: int) -> str:
    """64Gi, 8 -> 512Gi"""
    return memory_of(mebibytes(memory) * factor)


def add_memory(one: str, other: str) -> str:
    """2Gi, 512Mi -> 2560Mi"""
    return memory_of(mebibytes(one) + mebibytes(other))


def times(cpu: str, factor: int) -> str:
    """8, 8 -> 64; 500m, 3 -> 1500m"""
    return f"{int(cpu[:-1]) * factor}m" if cpu.endswith("m") else str(int(cpu) * factor)


def are_equal(one: object, other: object) -> bool:
    """1000m and 1, 1024Mi and 1Gi: the API server answers with its own way to write a quantity."""
    values = (_value(one), _value(other))
    return values[0] is not None and values[0] == values[1]


_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|[kMGTPE]|[KMGTPE]i)?")
_FACTORS = {
    "": Fraction(1),
    "m": Fraction(1, 1000),
    **{unit: Fraction(1000**power) for power, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": Fraction(1024**power) for power, unit in enumerate("KMGTPE", start=1)},
}


def _value(text: object) -> Fraction | None:
    found = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
    return Fraction(found[1]) * _FACTORS[found[2] or ""] if found else None
