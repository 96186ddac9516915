"""The real-model demo trains in the number format that the CPU has instructions for."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from rlhf_api.validate import parse_job
from rlhf_cli.job_files import read_object

SCRIPT = Path(__file__).parents[3] / "examples" / "real-model" / "job.py"


@pytest.fixture(scope="module")
def job() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("job_of_real_model", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("cpuinfo", "precision"),
    [
        pytest.param("flags\t\t: fpu avx512f avx512_bf16 vaes\n", "bf16", id="AVX512-BF16"),
        pytest.param("flags\t\t: amx_bf16 amx_tile\n", "bf16", id="AMX"),
        pytest.param("Features\t: fp asimd bf16 i8mm\n", "bf16", id="Arm with bf16"),
        pytest.param("model name\t: bf16 9000\nflags\t\t: fpu avx2 avx512f f16c\n", "fp32", id="AVX2 or AVX512 without bf16 emulates it"),
        pytest.param("", "fp32", id="no /proc/cpuinfo"),
    ],
)
def test_precision_follows_the_cpu(job: ModuleType, cpuinfo: str, precision: str) -> None:
    assert job.precision_of(cpuinfo) == precision


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_only_the_precision_changes(job: ModuleType, precision: str, tmp_path: Path) -> None:
    file = tmp_path / "real-chat.yaml"
    file.write_text(job.job_file(precision), "utf-8")
    wire, example = read_object(file), read_object(job.EXAMPLE)
    assert parse_job(wire).spec.model.precision == precision
    example["spec"]["model"]["precision"] = precision
    assert wire == example
