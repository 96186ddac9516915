"""A CPU trains in the number format that it has instructions for."""

from pathlib import Path

import pytest

from rlhf_trainer.cpu import fastest_precision


@pytest.mark.parametrize(
    ("cpuinfo", "precision"),
    [
        pytest.param("flags\t\t: fpu avx512f avx512_bf16 vaes\n", "bf16", id="AVX512-BF16"),
        pytest.param("flags\t\t: amx_bf16 amx_tile\n", "bf16", id="AMX"),
        pytest.param("Features\t: fp asimd bf16 i8mm\n", "bf16", id="Arm with bf16"),
        pytest.param("model name\t: bf16 9000\nflags\t\t: fpu avx2 avx512f f16c\n", "fp32", id="AVX2 or AVX512 without bf16 emulates it"),
        pytest.param("", "fp32", id="a file that says nothing"),
        pytest.param(None, "fp32", id="no such file"),
    ],
)
def test_precision_follows_the_cpu(cpuinfo: str | None, precision: str, tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        file.write_text(cpuinfo, "utf-8")
    assert fastest_precision(file) == precision
