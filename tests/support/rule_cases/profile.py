"""Rules about a profile: each is obeyed and broken once. The Python and the API server judge the same cases.

Where a value that breaks a pattern would stop every decision, the pattern has a case as well: its message is the pattern.
"""

from tests.support.rules import Cases

PATTERNS: Cases = {
    "^[1-9][0-9]*$": (
        {"spec.resources": {"perGpu": {"extended": {"rdma/hca": "1", "ephemeral-storage": "107374182400"}}}},
        {"spec.resources": {"perGpu": {"extended": {"ephemeral-storage": "100Gi"}}}},
        "spec.resources.perGpu.extended.ephemeral-storage",
    ),
}
CASES: Cases = {
    **PATTERNS,
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
