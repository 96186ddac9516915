"""Changes of a job: which are never allowed, which always, and which only while the job is at rest. All are changes of `chat_7b`."""

from rlhf_api.rules.changes import CHANGE_RULES
from tests.support.manifests import REMOVE
from tests.support.rules import NF4, PUBLISH, RM, Changes

TOPOLOGY, STAGES, SET, SUCCEEDED, RERUN = (rule.message for rule in CHANGE_RULES)
PHASES = ("Pending", "Queued", "Starting", "Running", "Suspended", "Succeeded", "Failed")
TOKEN = {"fromStage": "rm", "token": "2"}
REST = frozenset({"Pending", "Suspended", "Failed"})

NEVER: dict[str, object] = {
    "profile": "a100",
    "model": {"source": {"uri": "builtin://models/tiny-llama"}},
    "seed": 7,
    "storage": {"size": "1Gi"},
    "managedBy": "kueue.x-k8s.io/multikueue",
}
"""Field of the spec -> another value."""

ANY_TIME: dict[str, Changes] = {
    "suspend": {"spec.suspend": True},
    "queue": {"spec.queueName": "other"},
    "priority": {"spec.priorityClassName": "high"},
    "run policy": {"spec.runPolicy.maxAttempts": 9},
    "checkpoint": {"spec.checkpoint.keep": 3},
    "labels": {"metadata.labels": {"a": "b"}},
    "defaults written out": {"spec.strategy": "auto", "spec.seed": 42},
}

AT_REST: dict[str, tuple[Changes, str, str, frozenset[str]]] = {
    "strategy": ({"spec.strategy": "zero2"}, "spec.strategy", TOPOLOGY, REST),
    "topology": ({"spec.topology.nodes": 4}, "spec.topology", TOPOLOGY, REST),
    "stages": ({f"{RM}.rewardModel.epochs": 2}, "spec.stages", STAGES, REST),
    "rerun": ({"spec.rerun": TOKEN}, "spec.rerun", RERUN, REST | {"Succeeded"}),
}
"""Name -> changes, the path to blame, the message, and the phases in which the change is allowed."""

OTHER_STAGES: dict[str, Changes] = {
    "removed": {"spec.stages[4]": REMOVE},
    "added": {"spec.stages[5]": {"name": "q8", "type": "Quantize", "quantize": {}}},
    "renamed": {f"{PUBLISH}.name": "last"},
    "another type": {NF4: {"name": "nf4", "type": "SFT", "sft": {"dataset": {"uri": "s3://a/b"}}}},
}
"""Refused in every phase: stages stay what they are."""
