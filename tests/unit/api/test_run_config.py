"""run.json: everything an attempt needs, the same bytes for the same attempt, and a block that matches the type of the stage."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_api.base import digest
from rlhf_api.inputs import Dataset, Source
from rlhf_api.job import Lora
from rlhf_api.policies import CheckpointPolicy
from rlhf_api.run_config import (
    MAX_RUN_BYTES,
    DatasetRequest,
    Deadlines,
    Gang,
    InputRef,
    JobRef,
    ModelRequest,
    PrepareConfig,
    RunConfig,
    RunModel,
    RunPlan,
    StageConfig,
    StageRef,
    run_sha256,
)
from rlhf_api.stages import PPO, SFT, Destination, Publish, Quantize, RewardModel, StageType

DIGEST = f"sha256:{'0123456789abcdef' * 4}"
ROWS = Dataset(uri="builtin://datasets/tiny-chat-sft")


def a_run(stage_type: StageType = StageType.PPO, config: StageConfig | None = None, **changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "job": JobRef(name="chat-7b", namespace="team-a", uid="u-1"),
        "stage": StageRef(name="stage", type=stage_type),
        "attempt": 2,
        "gang": Gang(nodes=2, processes_per_node=8, world_size=16, master_address="chat-7b-ppo-r2-0.x", device="cuda"),
        "root": "/workspace/u-1",
        "directory": "stages/ppo/r2",
        "resume_from": ("stages/ppo/r1/checkpoints",),
        "model": RunModel(size="7B", precision="bf16", lora=Lora(), chat_template="chatml"),
        "inputs": {"policy": InputRef(path="stages/sft/r1/output", digest=DIGEST)},
        "prepared": InputRef(path="stages/prepare/r1/output", digest=DIGEST),
        "prepared_datasets": {"prompts": "ppo.prompts"},
        "plan": RunPlan(strategy="zero2", micro_batch_size=4, gradient_checkpointing=True),
        "config": config or PPO(prompts=ROWS),
        "seed": 42,
        "checkpoint": CheckpointPolicy(),
        "deadlines": Deadlines(startup_seconds=1800, progress_seconds=3600),
    }
    return RunConfig(**values | changes)


@pytest.mark.parametrize(
    ("stage_type", "config"),
    [
        (
            StageType.PREPARE,
            PrepareConfig(
                models=(ModelRequest(key="model", source=Source(uri="builtin://models/tiny-llama")),),
                datasets=(DatasetRequest(key="sft.dataset", dataset=ROWS, purpose="conversations", tokenizer="model", max_length=128),),
            ),
        ),
        (StageType.SFT, SFT(dataset=ROWS)),
        (StageType.REWARD_MODEL, RewardModel(dataset=ROWS)),
        (StageType.PPO, PPO(prompts=ROWS)),
        (StageType.QUANTIZE, Quantize()),
        (StageType.PUBLISH, Publish(destination=Destination(uri="pvc://models/chat"))),
    ],
    ids=lambda value: str(value) if isinstance(value, StageType) else "",
)
def test_it_comes_back_with_the_block_of_its_type(stage_type: StageType, config: StageConfig, tmp_path: Path) -> None:
    run = a_run(stage_type, config)
    path = tmp_path / "run.json"
    path.write_bytes(run.to_bytes())
    loaded = RunConfig.load(path)
    assert loaded == run
    assert type(loaded.config) is type(config)


def test_the_wire_has_the_documented_names() -> None:
    wire = json.loads(a_run().to_bytes())
    assert wire["gang"] == {
        "nodes": 2, "processesPerNode": 8, "worldSize": 16, "masterAddress": "chat-7b-ppo-r2-0.x", "masterPort": 29500, "device": "cuda"
    }  # fmt: skip
    assert wire["optimizer"] == {"betas": [0.9, 0.95], "eps": 1e-05}
    assert wire["deadlines"] == {"startupSeconds": 1800, "progressSeconds": 3600, "shutdownSeconds": 110}
    assert wire["progressPort"] == 9400
    assert wire["model"]["loadIn4bit"] is False
    assert wire["preparedDatasets"] == {"prompts": "ppo.prompts"}
    assert wire["config"]["lambda"] == 0.95


def test_equal_attempts_have_equal_bytes() -> None:
    one, other = a_run(inputs={"a": _ref("a"), "b": _ref("b")}), a_run(inputs={"b": _ref("b"), "a": _ref("a")})
    assert one.to_bytes() == other.to_bytes()
    assert digest(one.to_bytes()) == f"sha256:{run_sha256(other.to_bytes())}"


def _ref(name: str) -> InputRef:
    return InputRef(path=f"stages/{name}/r1/output", digest=DIGEST)


def test_more_than_an_annotation_holds_is_refused() -> None:
    run = a_run(prepared_datasets={f"role-{i}": "x" * 100 for i in range(1000)})
    with pytest.raises(ValueError, match=f"more than {MAX_RUN_BYTES}"):
        run.to_bytes()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"stage": {"name": "ppo", "type": "SFT"}}, id="the block of another type"),
        pytest.param({"stage": {"name": "ppo", "type": "Dream"}}, id="an unknown type"),
        pytest.param({"version": 2}, id="a later version"),
        pytest.param({"config": None}, id="no block"),
        pytest.param({"stage": None}, id="no stage"),
        pytest.param({"extra": 1}, id="an unknown field"),
        pytest.param({"directory": "/etc"}, id="a path outside the root"),
    ],
)
def test_another_document_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        RunConfig.from_wire(json.loads(a_run().to_bytes()) | change)


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("{")
    with pytest.raises(ValueError):
        RunConfig.load(path)
