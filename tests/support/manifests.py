"""Job files as the API documents them, and a way to say what is different in one: a path and a value."""

import copy
from collections.abc import Mapping
from typing import Any

from rlhf_api.paths import as_location

REMOVE = object()
"""Stands for the value of a field that is taken away."""

REVISION = "0123456789abcdef0123456789abcdef01234567"
SHA256 = "0123456789abcdef" * 4

_HELLO: dict[str, Any] = {
    "apiVersion": "rlhf.dev/v1alpha1",
    "kind": "RLHFJob",
    "metadata": {"name": "hello-rlhf"},
    "spec": {
        "model": {"source": {"uri": "builtin://models/tiny-llama"}},
        "topology": {"gpusPerNode": 0},
        "storage": {"size": "1Gi"},
        "stages": [
            {
                "name": "sft",
                "type": "SFT",
                "sft": {"dataset": {"uri": "builtin://datasets/tiny-chat-sft"}, "maxSteps": 10, "globalBatchSize": 8, "maxLength": 128},
            },
            {
                "name": "rm",
                "type": "RewardModel",
                "rewardModel": {
                    "dataset": {"uri": "builtin://datasets/tiny-chat-preference"},
                    "maxSteps": 10,
                    "globalBatchSize": 8,
                    "maxLength": 128,
                    "minAccuracy": 0,
                },
            },
            {
                "name": "ppo",
                "type": "PPO",
                "ppo": {
                    "prompts": {"uri": "builtin://datasets/tiny-chat-prompts"},
                    "steps": 3,
                    "rolloutBatchSize": 8,
                    "minibatchSize": 4,
                    "maxPromptLength": 64,
                    "maxNewTokens": 16,
                    "criticWarmupSteps": 1,
                },
            },
        ],
    },
}

_S3_ROWS = {"uri": "s3://team-a/chat/sft.jsonl", "secretName": "s3-read", "format": "messages"}
_CHAT_7B: dict[str, Any] = {
    "apiVersion": "rlhf.dev/v1alpha1",
    "kind": "RLHFJob",
    "metadata": {"name": "chat-7b", "namespace": "team-a"},
    "spec": {
        "profile": "h100",
        "model": {
            "size": "7B",
            "source": {"uri": "hf://org/base-7b", "revision": REVISION, "secretName": "hf-token"},
            "chatTemplate": "chatml",
        },
        "topology": {"nodes": 2, "gpusPerNode": 8, "preferred": "topology.kubernetes.io/zone"},
        "strategy": "auto",
        "storage": {"size": "800Gi", "storageClassName": "fast-rwx"},
        "checkpoint": {"everySeconds": 600},
        "runPolicy": {"activeDeadlineSeconds": 172800},
        "queueName": "team-a",
        "stages": [
            {"name": "sft", "type": "SFT", "sft": {"dataset": _S3_ROWS, "epochs": 2, "maxLength": 4096}},
            {
                "name": "rm",
                "type": "RewardModel",
                "topology": {"nodes": 1, "gpusPerNode": 8},
                "rewardModel": {
                    "dataset": {"uri": "hf://org/chat-pairs", "revision": REVISION, "secretName": "hf-token"},
                    "minAccuracy": 0.65,
                },
            },
            {
                "name": "ppo",
                "type": "PPO",
                "runPolicy": {"maxAttempts": 5, "progressDeadlineSeconds": 3600},
                "ppo": {
                    "policy": {"stage": "sft"},
                    "prompts": {"uri": "s3://team-a/chat/prompts.jsonl", "secretName": "s3-read", "format": "prompts"},
                    "pretrainDataset": _S3_ROWS,
                    "ptxCoefficient": 0.1,
                    "steps": 300,
                    "learningRate": 1e-6,
                    "maxNewTokens": 1024,
                    "kl": {"controller": "adaptive", "target": 6},
                },
            },
            {"name": "nf4", "type": "Quantize", "quantize": {"method": "nf4", "maxPerplexityIncrease": 0.05}},
            {
                "name": "publish",
                "type": "Publish",
                "publish": {
                    "model": {"stage": "nf4"},
                    "destination": {"uri": "oci://registry.example.com/ml/chat-7b:v1", "secretName": "registry-push"},
                    "modelCard": {"license": "apache-2.0", "tags": ["chat", "rlhf"]},
                    "sign": True,
                },
            },
        ],
    },
}

_PROFILE: dict[str, Any] = {
    "apiVersion": "rlhf.dev/v1alpha1",
    "kind": "ClusterRLHFProfile",
    "metadata": {"name": "h100"},
    "spec": {"image": f"registry.example.com/trainer@sha256:{SHA256}"},
}


def hello_rlhf(changes: Mapping[str, object] | None = None) -> dict[str, Any]:
    """The smallest useful job: stages sft, rm, ppo at 0 to 2."""
    return changed(_HELLO, changes or {})


def chat_7b(changes: Mapping[str, object] | None = None) -> dict[str, Any]:
    """The full example: stages sft, rm, ppo, nf4, publish at 0 to 4."""
    return changed(_CHAT_7B, changes or {})


def h100_profile(changes: Mapping[str, object] | None = None) -> dict[str, Any]:
    """The smallest profile."""
    return changed(_PROFILE, changes or {})


def changed(document: Mapping[str, Any], changes: Mapping[str, object]) -> dict[str, Any]:
    """A copy with other values at some paths: `{"spec.stages[2].ppo.steps": 5, "spec.queueName": REMOVE}`.

    A path one past the end of a list appends to it; missing mappings on the way are made.
    """
    result = copy.deepcopy(dict(document))
    for path, value in changes.items():
        *way, last = as_location(path)
        place: Any = result
        for token in way:
            place = place[token] if isinstance(token, int) else place.setdefault(token, {})
        if value is REMOVE:
            del place[last]
        elif isinstance(last, int) and last == len(place):
            place.append(value)
        else:
            place[last] = value
    return result
