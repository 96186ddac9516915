"""Rules about a profile: each is obeyed and broken once. The Python and the API server judge the same cases."""

from tests.support.rules import Cases

CASES: Cases = {
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
