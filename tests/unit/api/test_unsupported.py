"""What the schema accepts and this version cannot do is refused before anything runs, and the answer names what works."""

import pytest

from rlhf_api.outcome import ExitCode
from rlhf_api.validate import exit_code_of, find_unsupported, parse_job
from tests.support.manifests import SHA256, chat_7b, hello_rlhf
from tests.support.rules import RM, SFT

PUBLISHED = {"name": "pub", "type": "Publish", "publish": {"destination": {"uri": "pvc://models/chat"}}}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="the smallest job"),
        pytest.param({"spec.model.source": {"uri": "pvc://models/base"}, "spec.model.size": "1B"}, id="a model on a claim"),
        pytest.param({f"{SFT}.sft.dataset": {"uri": "https://h/f.jsonl", "sha256": SHA256}}, id="a file from a web server"),
        pytest.param({"spec.stages[3]": PUBLISHED}, id="an artifact on a claim"),
        pytest.param({"spec.model.lora": {}, "spec.strategy": "zero2"}, id="LoRA with zero2"),
        pytest.param({"spec.strategy": "gemini"}, id="gemini"),
    ],
)
def test_what_works(changes: dict[str, object]) -> None:
    assert find_unsupported(parse_job(hello_rlhf(changes))) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {"spec.model.precision": "fp16"},
            ["spec.model.precision: 'fp16' is Unsupported, because losses are not scaled: use bf16 or fp32"],
            id="fp16",
        ),
        pytest.param(
            {"spec.model.trustRemoteCode": True},
            [
                "spec.model.trustRemoteCode: True is Unsupported in this version, because outputs hold no Python code: "
                "leave it false, and use a model whose architecture is part of transformers"
            ],
            id="code that ships with the model",
        ),
        pytest.param(
            {"spec.strategy": "3d"},
            ["spec.strategy: '3d' is Unsupported in this image: use auto, ddp, zero1, zero2, zero2-offload, gemini or gemini-offload"],
            id="3d for all stages is named once",
        ),
        pytest.param(
            {f"{RM}.strategy": "3d"},
            [
                "spec.stages[1].strategy: '3d' is Unsupported in this image: "
                "use auto, ddp, zero1, zero2, zero2-offload, gemini or gemini-offload"
            ],
            id="3d for one stage",
        ),
        pytest.param(
            {"spec.topology": {"gpusPerNode": 0, "processesPerNode": 4, "tensorParallel": 2, "pipelineParallel": 2}},
            [
                "spec.topology.tensorParallel: 2 is Unsupported in this image: use 1, and zero2 or gemini to spread the model",
                "spec.topology.pipelineParallel: 2 is Unsupported in this image: use 1, and zero2 or gemini to spread the model",
            ],
            id="tensor and pipeline parallel",
        ),
        pytest.param(
            {f"{SFT}.sft.dataset": {"uri": "s3://team-a/sft.jsonl"}},
            [
                "spec.stages[0].sft.dataset.uri: 's3://team-a/sft.jsonl' has scheme s3://, which is Unsupported in this version: "
                "use builtin://, pvc:// or https://"
            ],
            id="a dataset in a bucket",
        ),
        pytest.param(
            {f"{RM}.rewardModel.init": {"source": {"uri": f"oci://r/m@sha256:{SHA256}"}}},
            [
                f"spec.stages[1].rewardModel.init.source.uri: 'oci://r/m@sha256:{SHA256}' has scheme oci://, "
                "which is Unsupported in this version: use builtin:// or pvc://"
            ],
            id="a model in a registry",
        ),
        pytest.param(
            {"spec.stages[3]": {"name": "pub", "type": "Publish", "publish": {"destination": {"uri": "hf://org/chat"}, "sign": True}}},
            [
                "spec.stages[3].publish.destination.uri: 'hf://org/chat' has scheme hf://, which is Unsupported in this version: "
                "publish to pvc://<claim>/<path>",
                "spec.stages[3].publish.sign: True is Unsupported in this version: leave sign false; the manifest still proves every file",
            ],
            id="an artifact on a hub, signed",
        ),
    ],
)
def test_what_does_not(changes: dict[str, object], expected: list[str]) -> None:
    problems = find_unsupported(parse_job(hello_rlhf(changes)))
    assert [str(problem) for problem in problems] == expected
    assert exit_code_of(problems) is ExitCode.UNSUPPORTED


def test_all_of_a_large_job_at_once() -> None:
    paths = [problem.path for problem in find_unsupported(parse_job(chat_7b()))]
    assert paths == [
        "spec.model.source.uri",
        "spec.stages[0].sft.dataset.uri",
        "spec.stages[1].rewardModel.dataset.uri",
        "spec.stages[2].ppo.prompts.uri",
        "spec.stages[2].ppo.pretrainDataset.uri",
        "spec.stages[4].publish.destination.uri",
        "spec.stages[4].publish.sign",
    ]
