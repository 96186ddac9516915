"""Every rule of the API, obeyed and broken; every problem at once; and no document whatever that makes validation fail itself."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rlhf_api.crd.schema import RULES
from rlhf_api.outcome import ExitCode
from rlhf_api.validate import (
    UNSET,
    InvalidJob,
    InvalidProfile,
    Problem,
    exit_code_of,
    find_problems,
    find_profile_problems,
    parse_job,
    parse_profile,
)

from tests.support.manifests import REMOVE, REVISION, SHA256, changed, chat_7b, h100_profile, hello_rlhf

SFT, RM, PPO, NF4, PUBLISH = (f"spec.stages[{i}]" for i in range(5))
MODEL = "spec.model.source"
ROWS = f"{SFT}.sft.dataset"
Changes = dict[str, object]

# message -> (a change that obeys the rule, a change that breaks it, the path to blame)
JOB_CASES: dict[str, tuple[Changes, Changes, str]] = {
    "is the name of an earlier stage: each stage needs its own": ({}, {f"{RM}.name": "sft"}, f"{RM}.name"),
    "after may only name earlier stages": ({f"{PPO}.after": ["sft", "rm"]}, {f"{PPO}.after": ["sft", "nf4"]}, f"{PPO}.after[1]"),
    "sft.init.stage must name an earlier stage of type SFT or PPO": (
        {"spec.stages[5]": {"name": "sft2", "type": "SFT", "sft": {"init": {"stage": "ppo"}, "dataset": {"uri": "s3://a/b"}}}},
        {f"{SFT}.sft.init": {"stage": "ppo"}},
        f"{SFT}.sft.init.stage",
    ),
    "rewardModel.init.stage must name an earlier stage of type SFT or PPO or RewardModel": (
        {f"{RM}.rewardModel.init": {"stage": "sft"}},
        {f"{RM}.rewardModel.init": {"stage": "rm"}},
        f"{RM}.rewardModel.init.stage",
    ),
    "ppo.policy.stage must name an earlier stage of type SFT or PPO": (
        {f"{PPO}.ppo.policy": {"stage": "sft"}},
        {f"{PPO}.ppo.policy": {"stage": "rm"}},
        f"{PPO}.ppo.policy.stage",
    ),
    "ppo.reward.stage must name an earlier stage of type RewardModel": (
        {f"{PPO}.ppo.reward": {"stage": "rm"}},
        {f"{PPO}.ppo.reward": {"stage": "sft"}},
        f"{PPO}.ppo.reward.stage",
    ),
    "ppo.critic.stage must name an earlier stage of type RewardModel or PPO": (
        {f"{PPO}.ppo.critic": {"stage": "rm"}},
        {f"{PPO}.ppo.critic": {"stage": "absent"}},
        f"{PPO}.ppo.critic.stage",
    ),
    "quantize.model.stage must name an earlier stage of type SFT or PPO": (
        {f"{NF4}.quantize.model": {"stage": "sft"}},
        {f"{NF4}.quantize.model": {"stage": "rm"}},
        f"{NF4}.quantize.model.stage",
    ),
    "publish.model.stage must name an earlier stage of type SFT or RewardModel or PPO or Quantize": (
        {f"{PUBLISH}.publish.model": {"stage": "rm"}},
        {f"{PUBLISH}.publish.model": {"stage": "publish"}},
        f"{PUBLISH}.publish.model.stage",
    ),
    "a PPO stage needs an earlier RewardModel stage or ppo.reward": (
        {f"{PPO}.ppo.reward": {"source": {"uri": "s3://a/rm"}}},
        {RM: {"name": "rm", "type": "SFT", "sft": {"dataset": {"uri": "s3://a/b"}}}},
        f"{PPO}.ppo.reward",
    ),
    "a Quantize stage needs data for its gate: quantize.evalDataset, or an earlier SFT stage with evalFraction above 0": (
        {f"{SFT}.sft.evalFraction": 0, f"{NF4}.quantize.evalDataset": {"uri": "s3://a/b"}},
        {f"{SFT}.sft.evalFraction": 0},
        f"{NF4}.quantize.evalDataset",
    ),
    "a Publish stage needs an earlier SFT, PPO or Quantize stage, or publish.model": (
        {f"{PUBLISH}.publish.model": REMOVE},
        {"spec.stages": [{"name": "publish", "type": "Publish", "publish": {"destination": {"uri": "pvc://c/x"}}}]},
        f"{SFT}.publish.model",
    ),
    "each Publish stage needs its own destination": (
        {"spec.stages[5]": {"name": "again", "type": "Publish", "publish": {"destination": {"uri": "pvc://models/b"}}}},
        {
            "spec.stages[5]": {
                "name": "again",
                "type": "Publish",
                "publish": {"destination": {"uri": "oci://registry.example.com/ml/chat-7b:v1"}},
            }
        },
        "spec.stages[5].publish.destination.uri",
    ),
    "rerun.fromStage must name a stage": (
        {"spec.rerun": {"fromStage": "rm", "token": "1"}},
        {"spec.rerun": {"fromStage": "prepare", "token": "1"}},
        "spec.rerun.fromStage",
    ),
    "tensorParallel and pipelineParallel above 1 need strategy 3d or auto": (
        {"spec.topology.tensorParallel": 2, "spec.strategy": "3d"},
        {"spec.topology.tensorParallel": 2, f"{SFT}.strategy": "zero2"},
        SFT,
    ),
    "lora works with strategy auto, ddp, zero1, zero2 and zero2-offload, without tensorParallel and pipelineParallel": (
        {"spec.model.lora": {}, "spec.strategy": "zero2-offload"},
        {"spec.model.lora": {}, f"{PPO}.strategy": "gemini"},
        f"{PPO}.strategy",
    ),
    "loadIn4bit works with strategy auto and ddp only": (
        {"spec.model.lora": {}, "spec.model.loadIn4bit": True, "spec.strategy": "ddp"},
        {"spec.model.lora": {}, "spec.model.loadIn4bit": True, f"{RM}.strategy": "zero2"},
        f"{RM}.strategy",
    ),
    "ReadWriteOnce storage needs one node in every stage and maxParallelStages 1; use ReadWriteMany": (
        {"spec.storage.accessMode": "ReadWriteOnce", "spec.topology.nodes": 1},
        {"spec.storage.accessMode": "ReadWriteOnce"},
        "spec.storage.accessMode",
    ),
    "model.size is required (for example 7B) unless the source is builtin://": (
        {MODEL: {"uri": "builtin://models/tiny-llama"}, "spec.model.size": REMOVE},
        {"spec.model.size": REMOVE},
        "spec.model.size",
    ),
    "loadIn4bit needs lora: 4-bit weights cannot be trained themselves": (
        {"spec.model.loadIn4bit": True, "spec.model.lora": {}},
        {"spec.model.loadIn4bit": True},
        "spec.model.lora",
    ),
    "the name 'prepare' belongs to the implicit first stage": ({}, {f"{NF4}.name": "prepare"}, f"{NF4}.name"),
    "sft is required for type SFT and allowed for no other type": ({}, {f"{SFT}.sft": REMOVE}, f"{SFT}.sft"),
    "rewardModel is required for type RewardModel and allowed for no other type": (
        {},
        {f"{RM}.rewardModel": REMOVE},
        f"{RM}.rewardModel",
    ),
    "ppo is required for type PPO and allowed for no other type": ({}, {f"{PPO}.ppo": REMOVE}, f"{PPO}.ppo"),
    "quantize is required for type Quantize and allowed for no other type": (
        {f"{NF4}.quantize": {}},
        {f"{SFT}.quantize": {}},
        f"{SFT}.quantize",
    ),
    "publish is required for type Publish and allowed for no other type": (
        {},
        {f"{PUBLISH}.publish": REMOVE},
        f"{PUBLISH}.publish",
    ),
    "a Publish stage runs on one CPU pod: it takes no topology": (
        {},
        {f"{PUBLISH}.topology": {"gpusPerNode": 0}},
        f"{PUBLISH}.topology",
    ),
    "a Quantize stage runs on one node": (
        {f"{NF4}.topology": {"gpusPerNode": 1}},
        {f"{NF4}.topology": {"nodes": 2, "gpusPerNode": 1}},
        f"{NF4}.topology.nodes",
    ),
    "strategy is only for training stages": ({f"{RM}.strategy": "zero2"}, {f"{NF4}.strategy": "ddp"}, f"{NF4}.strategy"),
    "sft.dataset.format must be auto, instruction, messages or alpaca": (
        {f"{ROWS}.format": "alpaca"},
        {f"{ROWS}.format": "prompts"},
        f"{ROWS}.format",
    ),
    "rewardModel.dataset.format must be auto or preference": (
        {f"{RM}.rewardModel.dataset.format": "preference"},
        {f"{RM}.rewardModel.dataset.format": "messages"},
        f"{RM}.rewardModel.dataset.format",
    ),
    "minAccuracy needs held-out rows: set evalFraction above 0, or minAccuracy to 0": (
        {f"{RM}.rewardModel.evalFraction": 0, f"{RM}.rewardModel.minAccuracy": 0},
        {f"{RM}.rewardModel.evalFraction": 0},
        f"{RM}.rewardModel.minAccuracy",
    ),
    "kl.target is required with the adaptive controller and not allowed with the fixed one": (
        {f"{PPO}.ppo.kl": {}},
        {f"{PPO}.ppo.kl": {"controller": "adaptive"}},
        f"{PPO}.ppo.kl.target",
    ),
    "ppo.prompts.format cannot be preference": (
        {f"{PPO}.ppo.prompts.format": "messages"},
        {f"{PPO}.ppo.prompts.format": "preference"},
        f"{PPO}.ppo.prompts.format",
    ),
    "pretrainDataset and ptxCoefficient > 0 belong together: set both or none": (
        {f"{PPO}.ppo.pretrainDataset": REMOVE, f"{PPO}.ppo.ptxCoefficient": REMOVE},
        {f"{PPO}.ppo.ptxCoefficient": 0},
        f"{PPO}.ppo.ptxCoefficient",
    ),
    "ppo.pretrainDataset.format must be auto, instruction, messages or alpaca": (
        {f"{PPO}.ppo.pretrainDataset.format": "auto"},
        {f"{PPO}.ppo.pretrainDataset.format": "preference"},
        f"{PPO}.ppo.pretrainDataset.format",
    ),
    "set only one of episodes and steps": (
        {f"{PPO}.ppo.steps": REMOVE, f"{PPO}.ppo.episodes": 2},
        {f"{PPO}.ppo.episodes": 2},
        f"{PPO}.ppo.episodes",
    ),
    "criticWarmupSteps must be below steps, or the policy never learns": (
        {f"{PPO}.ppo.steps": 21},
        {f"{PPO}.ppo.steps": 20},
        f"{PPO}.ppo.criticWarmupSteps",
    ),
    "minibatchSize must divide rolloutBatchSize": (
        {f"{PPO}.ppo.rolloutBatchSize": 256},
        {f"{PPO}.ppo.rolloutBatchSize": 200},
        f"{PPO}.ppo.minibatchSize",
    ),
    "topK and topP change what is sampled but not the log-probabilities: keep topK 0 and topP 1, or set importanceCorrection": (
        {f"{PPO}.ppo.topP": 0.9, f"{PPO}.ppo.importanceCorrection": True},
        {f"{PPO}.ppo.topP": 0.9},
        f"{PPO}.ppo.importanceCorrection",
    ),
    "doubleQuant is only for method nf4": (
        {f"{NF4}.quantize.doubleQuant": False},
        {f"{NF4}.quantize": {"method": "int8", "doubleQuant": True}},
        f"{NF4}.quantize.doubleQuant",
    ),
    "quantize.evalDataset.format must be auto, instruction, messages or alpaca": (
        {f"{NF4}.quantize.evalDataset": {"uri": "s3://a/b"}},
        {f"{NF4}.quantize.evalDataset": {"uri": "s3://a/b", "format": "prompts"}},
        f"{NF4}.quantize.evalDataset.format",
    ),
    "publish.model must name a stage of this job": (
        {},
        {f"{PUBLISH}.publish.model": {"source": {"uri": "s3://a/b"}}},
        f"{PUBLISH}.publish.model",
    ),
    "hf:// sources must pin a revision: the 40-character commit id": ({}, {f"{MODEL}.revision": REMOVE}, f"{MODEL}.revision"),
    "revision is only for hf:// sources; pin others with sha256": (
        {f"{ROWS}.sha256": SHA256},
        {f"{ROWS}.revision": REVISION},
        f"{ROWS}.revision",
    ),
    "oci:// sources must be pinned: oci://<repo>@sha256:<digest>": (
        {MODEL: {"uri": f"oci://r/m@sha256:{SHA256}"}},
        {MODEL: {"uri": "oci://r/m:v1"}},
        f"{MODEL}.uri",
    ),
    "https:// sources must give sha256": (
        {ROWS: {"uri": "https://h/f.jsonl", "sha256": SHA256}},
        {ROWS: {"uri": "https://h/f.jsonl"}},
        f"{ROWS}.sha256",
    ),
    "builtin sources here are written builtin://models/<name>, without sha256 or secretName": (
        {MODEL: {"uri": "builtin://models/tiny-llama"}},
        {MODEL: {"uri": "builtin://datasets/tiny-chat-sft"}},
        f"{MODEL}.uri",
    ),
    "a model is a directory and https:// delivers one file: use hf, s3, gs, oci or pvc": (
        {MODEL: {"uri": "pvc://models/base"}},
        {MODEL: {"uri": "https://h/m", "sha256": SHA256}},
        f"{MODEL}.uri",
    ),
    "builtin sources here are written builtin://datasets/<name>, without sha256 or secretName": (
        {ROWS: {"uri": "builtin://datasets/tiny-chat-sft"}},
        {ROWS: {"uri": "builtin://datasets/tiny-chat-sft", "secretName": "s"}},
        f"{ROWS}.uri",
    ),
    "uri must start with hf://, s3://, gs://, oci://, https://, pvc:// or builtin://": (
        {f"{ROWS}.uri": "gs://b/p"},
        {f"{ROWS}.uri": "file:///etc/passwd"},
        f"{ROWS}.uri",
    ),
    "after the scheme only letters, digits and . _ ~ / : + = - are allowed, and no '.' or '..' path segments": (
        {f"{ROWS}.uri": "s3://a/..b/c.d~e:f+g=h-"},
        {f"{ROWS}.uri": "s3://a/../b"},
        f"{ROWS}.uri",
    ),
    "'@' is allowed only in oci://<repo>@sha256:<digest>; credentials belong in secretName": (
        {MODEL: {"uri": f"oci://r/m@sha256:{SHA256}"}},
        {f"{ROWS}.uri": "s3://user:password@bucket/p"},
        f"{ROWS}.uri",
    ),
    "pvc sources are written pvc://<claim>/<path>": ({ROWS: {"uri": "pvc://data/a/b"}}, {ROWS: {"uri": "pvc://data"}}, f"{ROWS}.uri"),
    "destination uri must start with hf://, s3://, gs://, oci:// or pvc://": (
        {f"{PUBLISH}.publish.destination": {"uri": "pvc://models/chat"}},
        {f"{PUBLISH}.publish.destination": {"uri": "https://h/x"}},
        f"{PUBLISH}.publish.destination.uri",
    ),
    "a destination has no '@': credentials belong in secretName, and the digest is a result": (
        {},
        {f"{PUBLISH}.publish.destination.uri": f"oci://r/m@sha256:{SHA256}"},
        f"{PUBLISH}.publish.destination.uri",
    ),
    "set exactly one of stage and source": (
        {f"{PPO}.ppo.reward": {"stage": "rm"}},
        {f"{PPO}.ppo.reward": {}},
        f"{PPO}.ppo.reward",
    ),
    "processesPerNode is only for gpusPerNode 0; with GPUs there is one process per GPU": (
        {"spec.topology": {"gpusPerNode": 0, "processesPerNode": 2}},
        {"spec.topology.processesPerNode": 2},
        "spec.topology.processesPerNode",
    ),
    "nodes x processes per node must be divisible by tensorParallel x pipelineParallel": (
        {"spec.topology.tensorParallel": 4, "spec.topology.pipelineParallel": 4},
        {"spec.topology.tensorParallel": 3},
        "spec.topology",
    ),
    "set only one of required and preferred": ({}, {"spec.topology.required": "rack"}, "spec.topology.preferred"),
    "set either size (with optional storageClassName and accessMode) or existingClaim alone": (
        {"spec.storage": {"existingClaim": "data"}},
        {"spec.storage": {"existingClaim": "data", "size": "1Gi"}},
        "spec.storage",
    ),
    "an existingClaim is never deleted: leave retain true": (
        {"spec.storage.retain": False},
        {"spec.storage": {"existingClaim": "data", "retain": False}},
        "spec.storage.retain",
    ),
}

PROFILE_CASES: dict[str, tuple[Changes, Changes, str]] = {
    "is set twice: each variable once": (
        {"spec.env": [{"name": "A", "value": "1"}, {"name": "B", "value": "1"}]},
        {"spec.env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]},
        "spec.env[1].name",
    ),
    "image must be pinned by digest (repository@sha256:...) unless allowUnpinnedImage is true": (
        {"spec.image": "local", "spec.allowUnpinnedImage": True},
        {"spec.image": "registry.example.com/trainer:v1"},
        "spec.image",
    ),
    "requireSignature needs signingSecretName": (
        {"spec.publish": {"requireSignature": True, "signingSecretName": "key"}},
        {"spec.publish": {"requireSignature": True}},
        "spec.publish.signingSecretName",
    ),
    "this variable would change what the trainer runs": (
        {"spec.env": [{"name": "NCCL_SOCKET_IFNAME", "value": "eth0"}]},
        {"spec.env": [{"name": "LD_PRELOAD", "value": "x.so"}]},
        "spec.env[0].name",
    ),
    "each prefix is a scheme such as hf:// or ends with '/', so that hf://org cannot match hf://org-evil": (
        {"spec.sources.allow": ["hf://", "s3://team-a/"]},
        {"spec.sources.allow": ["hf://", "hf://org"]},
        "spec.sources.allow[1]",
    ),
}


def test_every_rule_has_a_case() -> None:
    assert {rule.message for rule in RULES} == JOB_CASES.keys() | PROFILE_CASES.keys()


@pytest.mark.parametrize("message", JOB_CASES)
def test_a_job_may(message: str) -> None:
    assert find_problems(chat_7b(JOB_CASES[message][0])) == []


@pytest.mark.parametrize("message", JOB_CASES)
def test_a_job_may_not(message: str) -> None:
    _, broken, path = JOB_CASES[message]
    found = {problem.path for problem in find_problems(chat_7b(broken)) if problem.rule == message}
    assert path in found


@pytest.mark.parametrize("message", PROFILE_CASES)
def test_a_profile_may(message: str) -> None:
    assert find_profile_problems(h100_profile(PROFILE_CASES[message][0])) == []


@pytest.mark.parametrize("message", PROFILE_CASES)
def test_a_profile_may_not(message: str) -> None:
    _, broken, path = PROFILE_CASES[message]
    assert [(problem.path, problem.rule) for problem in find_profile_problems(h100_profile(broken))] == [(path, message)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {f"{SFT}.sft.epoch": 3},
            "spec.stages[0].sft.epoch: 3 is not a field: did you mean epochs?",
            id="a misspelt field is named with its neighbour",
        ),
        pytest.param(
            {f"{SFT}.sft.learning_rate": 0.1},
            "spec.stages[0].sft.learning_rate: 0.1 is not a field: did you mean learningRate?",
            id="Python's spelling is not the API's",
        ),
        pytest.param(
            {f"{PPO}.clip": 0.1}, "spec.stages[2].clip: 0.1 is not a field here: it belongs in ppo", id="a field one level too high"
        ),
        pytest.param(
            {"spec.podTemplate": {"hostPID": True}},
            "spec.podTemplate: {'hostPID': True} is not a field; the fields here are profile, model, topology, strategy, seed, storage, "
            "checkpoint, runPolicy, suspend, managedBy, queueName, priorityClassName, rerun, stages",
            id="a field of another world",
        ),
        pytest.param(
            {f"{SFT}.sft.learningRate": "2e-5"},
            "spec.stages[0].sft.learningRate: '2e-5' must be a number, above 0, up to 1, not text: write 2e-5 without quotes",
            id="a number in quotes",
        ),
        pytest.param(
            {f"{SFT}.sft.epochs": 0},
            "spec.stages[0].sft.epochs: 0 must be an integer, 1 to 100: Passes over the dataset.",
            id="a number out of range",
        ),
        pytest.param(
            {f"{SFT}.sft.epochs": 1.5},
            "spec.stages[0].sft.epochs: 1.5 must be an integer, 1 to 100: Passes over the dataset.",
            id="a fraction where steps are counted",
        ),
        pytest.param(
            {f"{SFT}.sft.warmupFraction": float("nan")},
            "spec.stages[0].sft.warmupFraction: nan must be a number, 0 to below 1: Part of all optimizer steps spent warming up.",
            id="not a number",
        ),
        pytest.param(
            {f"{SFT}.sft.packing": "yes"},
            "spec.stages[0].sft.packing: 'yes' must be true or false: Put several rows into one sequence, isolated from each other.",
            id="text where a boolean is meant",
        ),
        pytest.param(
            {"spec.strategy": "zero3"},
            "spec.strategy: 'zero3' must be one of auto, ddp, zero1, zero2, zero2-offload, gemini, gemini-offload, 3d: did you mean zero2?",
            id="an unknown choice",
        ),
        pytest.param(
            {"spec.topology": {}},
            "spec.topology.gpusPerNode: (unset) is required: GPUs and processes of each pod; 0 = CPU only.",
            id="a missing field",
        ),
        pytest.param(
            {"spec.checkpoint": [1]},
            "spec.checkpoint: [1] must be a mapping with the fields everySteps, everySeconds, keep",
            id="a list where a mapping is meant",
        ),
        pytest.param(
            {"metadata.name": "Chat"},
            "metadata.name: 'Chat' must be text, at most 36 characters, matching ^[a-z]([-a-z0-9]*[a-z0-9])?$",
            id="a name that no pod could have",
        ),
        pytest.param({"kind": REMOVE}, "kind: (unset) is required: write kind: RLHFJob", id="no kind"),
        pytest.param(
            {f"{PPO}.after": "sft"},
            "spec.stages[2].after: 'sft' must be a list, at most 9 items: Earlier stages to wait for in addition to those named as inputs.",
            id="text where a list is meant",
        ),
        pytest.param(
            {f"{PPO}.after": [3]},
            "spec.stages[2].after[0]: 3 must be text, at most 15 characters, matching ^[a-z]([-a-z0-9]*[a-z0-9])?$: "
            "Earlier stages to wait for in addition to those named as inputs.",
            id="an item of the wrong type",
        ),
    ],
)
def test_words(changes: Changes, expected: str) -> None:
    assert [str(problem) for problem in find_problems(chat_7b(changes))] == [expected]


def test_all_problems_come_at_once() -> None:
    broken: Changes = {
        "spec.strategy": "zero3",
        f"{SFT}.sft.epochs": "two",
        f"{RM}.topology": {"gpusPerNode": 8, "processesPerNode": 2},
        f"{PPO}.ppo.kl": {"controller": "adaptive"},
        f"{PPO}.ppo.minibatchSize": 3,
        f"{NF4}.quantize.model": {"stage": "publish"},
        f"{PUBLISH}.publish.destination.uri": "file:///x",
    }
    paths = {problem.path for problem in find_problems(chat_7b(broken))}
    assert paths == {
        "spec.strategy",
        f"{SFT}.sft.epochs",
        f"{RM}.topology.processesPerNode",
        f"{PPO}.ppo.kl.target",
        f"{PPO}.ppo.minibatchSize",
        f"{NF4}.quantize.model.stage",
        f"{PUBLISH}.publish.destination.uri",
    }


def test_a_broken_field_raises_no_second_problem_by_its_default() -> None:
    # minibatchSize 128 divides the default of rolloutBatchSize, but nobody knows what "lots" would have been.
    problems = find_problems(chat_7b({f"{PPO}.ppo.rolloutBatchSize": "lots", f"{PPO}.ppo.minibatchSize": 100}))
    assert [problem.path for problem in problems] == [f"{PPO}.ppo.rolloutBatchSize"]


def test_a_problem_shows_the_default_that_is_to_blame() -> None:
    (problem,) = find_problems(chat_7b({f"{PPO}.ppo.steps": 5}))
    assert (problem.path, problem.value) == (f"{PPO}.ppo.criticWarmupSteps", 20)


def test_a_long_value_is_cut() -> None:
    assert len(str(Problem("spec.x", "a" * 5000, "is long"))) < 200


@pytest.mark.parametrize("document", [None, 3, "text", [], [{"kind": "RLHFJob"}]])
def test_a_document_must_be_a_mapping(document: object) -> None:
    (problem,) = find_problems(document)
    assert problem.path == ""
    assert "must be a mapping" in problem.rule


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({}, ExitCode.SUCCEEDED, id="nothing is wrong"),
        pytest.param({f"{SFT}.sft.epochs": 0}, ExitCode.CONFIG, id="a value is wrong"),
        pytest.param({"spec.model.lora": {}, "spec.strategy": "gemini"}, ExitCode.UNSUPPORTED, id="only a combination is"),
        pytest.param({"spec.model.lora": {}, "spec.strategy": "gemini", f"{SFT}.sft.epochs": 0}, ExitCode.CONFIG, id="both are"),
    ],
)
def test_exit_code(changes: Changes, code: ExitCode) -> None:
    assert exit_code_of(find_problems(chat_7b(changes))) == code


def test_parse_gives_the_job_or_all_problems() -> None:
    assert parse_job(hello_rlhf()).spec.stages[2].name == "ppo"
    with pytest.raises(InvalidJob, match="spec.seed: -1 must be an integer") as caught:
        parse_job(hello_rlhf({"spec.seed": -1, "spec.queueName": ""}))
    assert len(caught.value.problems) == 2
    assert caught.value.exit_code is ExitCode.CONFIG


def test_parse_gives_the_profile_or_all_problems() -> None:
    assert parse_profile(h100_profile()).spec.limits.max_gpus == 8
    with pytest.raises(InvalidProfile, match="spec.image"):
        parse_profile(h100_profile({"spec.image": REMOVE}))


def test_unset_is_shown_as_such() -> None:
    assert repr(UNSET) == "(unset)"


# Any document: real field names, so that the inner parts are reached, and any JSON below them.
_NAMES = st.sampled_from(
    "spec metadata status name model source uri lora topology nodes gpusPerNode stages type sft dataset ppo prompts kl target publish "
    "destination rewardModel quantize storage size rerun fromStage after env x".split()
)
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["SFT", "PPO", "hf://a", "sft"])
_ANY = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_NAMES | st.text(max_size=4), inner, max_size=6), max_leaves=30
)


@given(_ANY)
def test_no_document_makes_validation_fail(document: Any) -> None:
    find_problems(document)
    find_profile_problems(document)


@given(
    st.sampled_from([SFT, RM, PPO, NF4, PUBLISH, MODEL, ROWS, "spec.topology", "spec.storage", f"{PPO}.ppo", f"{RM}.rewardModel.dataset"]),
    _ANY,
)
def test_no_part_of_a_job_makes_validation_fail(path: str, value: Any) -> None:
    for problem in find_problems(chat_7b({path: value})):
        assert str(problem)


@given(st.sampled_from(sorted(JOB_CASES)), st.sampled_from(sorted(JOB_CASES)))
def test_a_valid_document_parses_and_comes_back_unchanged(one: str, other: str) -> None:
    wire = changed(chat_7b(JOB_CASES[one][0]), JOB_CASES[other][1])
    if not find_problems(wire):
        complete = parse_job(wire).to_wire()
        assert parse_job(json.loads(json.dumps(complete))).to_wire() == complete
