"""Arguments, the pod's place, and the verified run.json (rule L9)."""

import json
from pathlib import Path

import pytest

from rlhf_api.run_config import RunConfig, run_sha256
from rlhf_trainer.errors import ConfigError
from rlhf_trainer.launch_options import Options, Place, parse, read_run
from tests.support.runs import run_wire

CONFIG = RunConfig.from_wire(run_wire())


@pytest.mark.rule("L9")
def test_without_arguments_the_containers_paths() -> None:
    options = parse([])
    assert str(options.run_file) == "/etc/rlhf/run.json"
    assert (str(options.secrets), str(options.workspace)) == ("/etc/rlhf/secrets", "/workspace")
    assert (str(options.termination_log), options.progress_port, options.claims) == ("/dev/termination-log", None, {})


def test_workers_get_the_same_options() -> None:
    arguments = [
        "--run-file",
        "/a",
        "--secrets",
        "/b",
        "--workspace",
        "/c",
        "--claim",
        "data=/d",
        "--claim",
        "more=/e=f",
        "--progress-port",
        "0",
    ]
    options = parse([*arguments, "--exchange", "/x"])
    again = parse(options.arguments())
    assert again == options
    assert again.claims == {"data": Path("/d"), "more": Path("/e=f")}


def test_a_claim_needs_a_name_and_a_directory(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--claim", "data"])
    assert "NAME=DIR" in capsys.readouterr().err


def test_the_workspace_takes_the_place_of_the_containers() -> None:
    options = Options(claims={}, workspace=Path("/srv/volumes"))
    assert str(options.root_of(CONFIG)) == "/srv/volumes/uid-1"
    with pytest.raises(ConfigError, match="must be below /workspace"):
        options.root_of(CONFIG.model_copy(update={"root": "/etc"}))


@pytest.mark.rule("L9")
def test_environment_wins_over_run_json() -> None:
    environment = {"PET_NODE_RANK": "0", "PET_MASTER_ADDR": "10.0.0.1", "PET_MASTER_PORT": "1234"}
    place = Place.of(CONFIG, environment)
    assert (place.master_address, place.master_port, place.is_single) == ("10.0.0.1", 1234, True)


@pytest.mark.parametrize(("environment", "message"), [
    ({"PET_NNODES": "2"}, "worldSize 1"),
    ({"PET_NPROC_PER_NODE": "auto"}, "PET_NPROC_PER_NODE"),
])  # fmt: skip
def test_a_place_that_contradicts_run_json_is_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Place.of(CONFIG, environment)


def test_run_json_is_checked_against_its_hash(tmp_path: Path) -> None:
    content = json.dumps(run_wire()).encode()
    (tmp_path / "run.json").write_bytes(content)
    options = Options(claims={}, run_file=tmp_path / "run.json")
    config, digest = read_run(options, {"RLHF_RUN_SHA256": run_sha256(content)})
    assert config == CONFIG
    assert digest == "sha256:" + run_sha256(content)
    with pytest.raises(ConfigError, match="RLHF_RUN_SHA256"):
        read_run(options, {"RLHF_RUN_SHA256": "0" * 64})


@pytest.mark.parametrize("content", [None, b"not json", b"{}"])
def test_an_unusable_run_json_is_a_config_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"run\.json"):
        read_run(Options(claims={}, run_file=tmp_path / "run.json"), {})
