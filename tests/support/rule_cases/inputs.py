"""Rules about inputs, sources and destinations: each is obeyed and broken once. The Python and the API server judge the same cases.

Where a pattern of the schema is a promise of security, it has a case as well: its message is the pattern.
"""

from tests.support.manifests import REMOVE, REVISION, SHA256
from tests.support.rules import MODEL, PPO, PUBLISH, ROWS, Cases

PATTERNS: Cases = {
    "^[A-Za-z0-9][A-Za-z0-9._-]*$": (
        {ROWS: {"uri": "pvc://data/team-a/chat", "split": "train_v1.2-a"}},
        {ROWS: {"uri": "pvc://data/team-a/chat", "split": "../../team-b/chat"}},
        f"{ROWS}.split",
    ),
}
CASES: Cases = {
    **PATTERNS,
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
    "pvc destinations are written pvc://<claim>/<path>, without a '/' at the end: a claim as a whole is never replaced": (
        {f"{PUBLISH}.publish.destination": {"uri": "pvc://models/team/chat"}},
        {f"{PUBLISH}.publish.destination": {"uri": "pvc://models"}},
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
