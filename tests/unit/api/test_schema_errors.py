"""One mistake, one line: the words for it, ending in the fix."""

import pytest

from rlhf_api.validate import find_problems
from tests.support.manifests import REMOVE, chat_7b
from tests.support.rules import MODEL, NF4, PPO, ROWS, SFT, Changes


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
            {f"{PPO}.ppo.coefficient": 0.1},
            "spec.stages[2].ppo.coefficient: 0.1 is not a field here: it belongs in kl",
            id="the name of a field in a block goes before one that is spelt like it",
        ),
        pytest.param(
            {f"{PPO}.ppo.klCoefficient": 0.1},
            "spec.stages[2].ppo.klCoefficient: 0.1 is not a field: did you mean kl.coefficient?",
            id="a block and its field in one word",
        ),
        pytest.param(
            {"spec.model.lora_rank": 4}, "spec.model.lora_rank: 4 is not a field: did you mean lora.rank?", id="the same with an underscore"
        ),
        pytest.param(
            {f"{NF4}.quantize.maxRows": 4},
            "spec.stages[3].quantize.maxRows: 4 is not a field: did you mean maxEvalRows?",
            id="half a name",
        ),
        pytest.param(
            {f"{NF4}.quantize.maxLoss": 4},
            "spec.stages[3].quantize.maxLoss: 4 is not a field; the fields here are model, evalDataset, method, doubleQuant, maxEvalRows, "
            "maxPerplexityIncrease",
            id="a name that is not near enough to any",
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
            {f"{SFT}.sft.epochs": "3"},
            "spec.stages[0].sft.epochs: '3' must be an integer, 1 to 100, not text: write 3 without quotes",
            id="an integer in quotes",
        ),
        pytest.param(
            {f"{SFT}.sft.epochs": "2.5"},
            "spec.stages[0].sft.epochs: '2.5' must be an integer, 1 to 100: Passes over the dataset.",
            id="a fraction in quotes would be no integer without them",
        ),
        pytest.param(
            {f"{SFT}.sft.warmupFraction": "NaN"},
            "spec.stages[0].sft.warmupFraction: 'NaN' must be a number, 0 to below 1: Part of all optimizer steps spent warming up.",
            id="NaN in quotes would be text without them",
        ),
        pytest.param(
            {f"{SFT}.sft.warmupFraction": "inf"},
            "spec.stages[0].sft.warmupFraction: 'inf' must be a number, 0 to below 1: Part of all optimizer steps spent warming up.",
            id="an infinity in quotes",
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
            {"spec.stages": []},
            "spec.stages: [] must be a list, 1 to 10 items: Stages in order; an input may only name an earlier stage.",
            id="a list without items",
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
        pytest.param(
            {"spec.checkpoint": {3: 4}},
            "spec.checkpoint.3: (unset) is not a field; the fields here are everySteps, everySeconds, keep",
            id="a number where a field name is meant",
        ),
        pytest.param(
            {"metadata.nmae": "chat"}, "metadata.nmae: 'chat' is not a field: did you mean name?", id="a misspelt field of the metadata"
        ),
        pytest.param(
            {"metadata.namespace": "Team_A"},
            "metadata.namespace: 'Team_A' must be text, at most 63 characters, matching ^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
            id="a namespace that cannot exist",
        ),
        pytest.param(
            {"metadata.labels": {"a": 1}},
            'metadata.labels.a: 1 must be text, not a number: write "1" in quotes',
            id="a label that is no text",
        ),
        pytest.param({"metadata.labels": {"a": None}}, "metadata.labels.a: None must be text", id="a label without a value"),
        pytest.param(
            {"spec.rerun": {"fromStage": "rm", "token": 2}},
            'spec.rerun.token: 2 must be text, at most 64 characters, matching ^[A-Za-z0-9._:-]+$, not a number: write "2" in quotes',
            id="a number where text is meant",
        ),
        pytest.param(
            {MODEL: {"uri": "builtin://models/nope"}},
            "spec.model.source.uri: 'builtin://models/nope' does not exist; there are tiny-llama",
            id="a model that the project does not make",
        ),
        pytest.param(
            {ROWS: {"uri": "builtin://datasets/tiny-chat-stf"}},
            "spec.stages[0].sft.dataset.uri: 'builtin://datasets/tiny-chat-stf' does not exist: did you mean tiny-chat-sft?",
            id="a dataset that is misspelt",
        ),
        pytest.param(
            {f"{PPO}.ppo.rolloutBatchSize": 128, f"{PPO}.ppo.minibatchSize": 48},
            "spec.stages[2].ppo.minibatchSize: 48 minibatchSize must divide rolloutBatchSize: 48 does not divide 128, try 32",
            id="a minibatch that does not divide the rollout, with one that does, for 16 workers",
        ),
        pytest.param(
            {f"{PPO}.ppo.prompts.split": "team-b/chat"},
            "spec.stages[2].ppo.prompts.split: 'team-b/chat' must be text, at most 63 characters, matching ^[A-Za-z0-9][A-Za-z0-9._-]*$: "
            "Split or file stem to read; a folder on the way to it belongs in uri.",
            id="a path where the name of a split is meant",
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
