"""Every example is valid and can be planned; the ones that belong together agree."""

import os
import re
from pathlib import Path

import pytest
import yaml

from rlhf_api.job import RLHFJob
from rlhf_api.validate import find_problems, find_profile_problems, find_unsupported
from rlhf_cli.job_files import read_object
from rlhf_cli.plans import plan_rows, profile_spec

EXAMPLES = Path(__file__).parents[3] / "examples"
JOBS = sorted(EXAMPLES.glob("*.yaml"))
PROFILES = sorted((EXAMPLES / "profiles").glob("*.yaml"))


@pytest.mark.parametrize("file", JOBS, ids=lambda file: file.stem)
def test_a_job_is_valid_and_fits_its_profile(file: Path) -> None:
    wire = read_object(file)
    assert [str(problem) for problem in find_problems(wire)] == []
    spec = RLHFJob.from_wire(wire).spec
    profile = "h100" if spec.profile == "h100" else "cpu"
    rows = plan_rows(spec, profile_spec(read_object(EXAMPLES / "profiles" / f"{profile}.yaml")))
    assert [row.problem for row in rows if row.problem] == []


@pytest.mark.parametrize("file", [file for file in JOBS if file.stem != "chat-7b"], ids=lambda file: file.stem)
def test_what_runs_here_uses_nothing_that_cannot_run_yet(file: Path) -> None:
    assert find_unsupported(RLHFJob.from_wire(read_object(file))) == []


@pytest.mark.parametrize("file", PROFILES, ids=lambda file: file.stem)
def test_a_profile_is_valid(file: Path) -> None:
    assert [str(problem) for problem in find_profile_problems(read_object(file))] == []


@pytest.mark.parametrize("file", [*JOBS, *PROFILES], ids=lambda file: file.stem)
def test_an_example_opens_with_what_it_is_for(file: Path) -> None:
    assert file.read_text().startswith("# ")


def test_the_readme_shows_an_example_that_runs() -> None:
    """Its shorter one was valid, and ended in Prepare: the default lengths are more than the tiny model's context."""
    blocks = re.findall(r"^```yaml\n(.*?)^```$", (EXAMPLES.parent / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert [yaml.safe_load(block) for block in blocks] == [read_object(EXAMPLES / "hello.yaml")]


TWIN = """\
# tiny-chat.yaml in two processes: Colossal-AI's LowLevelZero (strategy zero2) over gloo on two CPU cores.
#   mkdir -p models && rlhf run examples/tiny-chat-zero2.yaml --claim models=models
# The global batches are those of tiny-chat.yaml, so the final losses agree. `make golden` copies changes made there.
"""


def test_two_processes_train_what_one_trains() -> None:
    one = (EXAMPLES / "tiny-chat.yaml").read_text()
    twin = TWIN + one[one.index("apiVersion:") :].replace("gpusPerNode: 0}", "gpusPerNode: 0, processesPerNode: 2}\n  strategy: zero2")
    twin = twin.replace("name: tiny-chat}", "name: tiny-chat-zero2}").replace("pvc://models/tiny-chat", "pvc://models/tiny-chat-zero2")
    file = EXAMPLES / "tiny-chat-zero2.yaml"
    if os.environ.get("GOLDEN") == "write":
        file.write_text(twin)
    assert file.read_text() == twin
