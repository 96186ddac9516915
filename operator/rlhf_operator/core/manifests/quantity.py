"""Kubernetes quantities as the API allows them (CPU `8` or `500m`, memory with binary units): multiplied and added exactly."""

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
