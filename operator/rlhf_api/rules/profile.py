"""Rules about a ClusterRLHFProfile."""

from collections.abc import Iterator

from rlhf_api.profile import EnvVar, ProfileSpec, PublishPolicy, Sources
from rlhf_api.rules.base import Rule, item_rule, matches, rule, unique_rule

_PINNED_IMAGE = "^[^@]+@sha256:[a-f0-9]{64}$"
_PREFIX = "^(hf|s3|gs|oci|https|pvc)://([A-Za-z0-9][A-Za-z0-9._~/:+=-]*/)?$"
_PREFIX_CEL = f"self.all(p, p.matches('{_PREFIX}'))"
_PREFIX_MESSAGE = "each prefix is a scheme such as hf:// or ends with '/', so that hf://org cannot match hf://org-evil"
_LOADER_VARIABLES = ("LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONSTARTUP")


def _find_open_prefix(policy: Sources | PublishPolicy) -> Iterator[str]:
    return (f"allow[{i}]" for i, prefix in enumerate(policy.allow) if not matches(prefix, _PREFIX))


RULES: tuple[Rule, ...] = (
    unique_rule(ProfileSpec, "env", "is set twice: each variable once", lambda it: it.env),
    rule(
        ProfileSpec,
        "image",
        f"self.allowUnpinnedImage || self.image.matches('{_PINNED_IMAGE}')",
        "image must be pinned by digest (repository@sha256:...) unless allowUnpinnedImage is true",
        lambda it: it.allow_unpinned_image or matches(it.image, _PINNED_IMAGE),
    ),
    rule(
        ProfileSpec,
        "publish.signingSecretName",
        "!self.publish.requireSignature || has(self.publish.signingSecretName)",
        "requireSignature needs signingSecretName",
        lambda it: not it.publish.require_signature or it.publish.signing_secret_name is not None,
    ),
    rule(
        EnvVar,
        "name",
        "!(self.name in ['LD_PRELOAD', 'LD_LIBRARY_PATH', 'PYTHONPATH', 'PYTHONSTARTUP']) && "
        "!self.name.startsWith('RLHF_') && !self.name.startsWith('PET_')",
        "this variable would change what the trainer runs",
        lambda it: it.name not in _LOADER_VARIABLES and not it.name.startswith(("RLHF_", "PET_")),
    ),
    item_rule(Sources, "allow", _PREFIX_CEL, _PREFIX_MESSAGE, _find_open_prefix),
    item_rule(PublishPolicy, "allow", _PREFIX_CEL, _PREFIX_MESSAGE, _find_open_prefix),
)
