"""Rules about sources, datasets, model inputs, topologies and storage, at every place where they appear."""

from rlhf_api.inputs import Dataset, ModelInput, Pinned, Source
from rlhf_api.job import Storage
from rlhf_api.rules.base import Rule, field_rule, implies, matches, rule
from rlhf_api.stages import Destination
from rlhf_api.topology import Topology

_SCHEMES = "^(hf|s3|gs|oci|https|pvc|builtin)://"
_CHARACTERS = "^[a-z0-9]+://[A-Za-z0-9][A-Za-z0-9._~/:@+=-]*$"
_DOTS = "/[.][.]?(/|$)"
_PINNED_OCI = "^oci://[^@]+@sha256:[a-f0-9]{64}$"
_CLAIM_PATH = "^pvc://[a-z0-9][-a-z0-9.]*/.+$"
_CLAIM_FOLDER = "^pvc://[a-z0-9][-a-z0-9.]*/.*[^/]$"
_BUILTIN = "^builtin://{kind}/[a-z0-9][a-z0-9.-]*$"
_DESTINATIONS = "^(hf|s3|gs|oci|pvc)://"
_CHARACTERS_CEL = f"self.matches('{_CHARACTERS}') && !self.matches('{_DOTS}')"
_CHARACTERS_MESSAGE = "after the scheme only letters, digits and . _ ~ / : + = - are allowed, and no '.' or '..' path segments"


def _has_plain_characters(uri: str) -> bool:
    return matches(uri, _CHARACTERS) and not matches(uri, _DOTS)


def _builtin_rule(owner: type[Source] | type[Dataset], kind: str) -> Rule:
    pattern = _BUILTIN.format(kind=kind)
    return rule(
        owner,
        "uri",
        f"!self.uri.startsWith('builtin://') || (self.uri.matches('{pattern}') && !has(self.sha256) && !has(self.secretName))",
        f"builtin sources here are written builtin://{kind}/<name>, without sha256 or secretName",
        lambda it: it.scheme != "builtin" or (matches(it.uri, pattern) and it.sha256 is None and it.secret_name is None),
    )


SOURCE_RULES = (
    rule(
        Pinned,
        "revision",
        "!self.uri.startsWith('hf://') || has(self.revision)",
        "hf:// sources must pin a revision: the 40-character commit id",
        lambda it: implies(it.scheme == "hf", it.revision is not None),
    ),
    rule(
        Pinned,
        "revision",
        "!has(self.revision) || self.uri.startsWith('hf://')",
        "revision is only for hf:// sources; pin others with sha256",
        lambda it: implies(it.revision is not None, it.scheme == "hf"),
    ),
    rule(
        Pinned,
        "uri",
        "!self.uri.startsWith('oci://') || self.uri.contains('@sha256:')",
        "oci:// sources must be pinned: oci://<repo>@sha256:<digest>",
        lambda it: implies(it.scheme == "oci", "@sha256:" in it.uri),
    ),
    rule(
        Pinned,
        "sha256",
        "!self.uri.startsWith('https://') || has(self.sha256)",
        "https:// sources must give sha256",
        lambda it: implies(it.scheme == "https", it.sha256 is not None),
    ),
    _builtin_rule(Source, "models"),
    rule(
        Source,
        "uri",
        "!self.uri.startsWith('https://')",
        "a model is a directory and https:// delivers one file: use hf, s3, gs, oci or pvc",
        lambda it: it.scheme != "https",
    ),
    _builtin_rule(Dataset, "datasets"),
    field_rule(
        Pinned,
        "uri",
        f"self.matches('{_SCHEMES}')",
        "uri must start with hf://, s3://, gs://, oci://, https://, pvc:// or builtin://",
        lambda it: matches(it.uri, _SCHEMES),
    ),
    field_rule(Pinned, "uri", _CHARACTERS_CEL, _CHARACTERS_MESSAGE, lambda it: _has_plain_characters(it.uri)),
    field_rule(
        Pinned,
        "uri",
        f"!self.contains('@') || self.matches('{_PINNED_OCI}')",
        "'@' is allowed only in oci://<repo>@sha256:<digest>; credentials belong in secretName",
        lambda it: implies("@" in it.uri, matches(it.uri, _PINNED_OCI)),
    ),
    field_rule(
        Pinned,
        "uri",
        f"!self.startsWith('pvc://') || self.matches('{_CLAIM_PATH}')",
        "pvc sources are written pvc://<claim>/<path>",
        lambda it: implies(it.scheme == "pvc", matches(it.uri, _CLAIM_PATH)),
    ),
)

DESTINATION_RULES = (
    field_rule(Destination, "uri", _CHARACTERS_CEL, _CHARACTERS_MESSAGE, lambda it: _has_plain_characters(it.uri)),
    field_rule(
        Destination,
        "uri",
        f"self.matches('{_DESTINATIONS}')",
        "destination uri must start with hf://, s3://, gs://, oci:// or pvc://",
        lambda it: matches(it.uri, _DESTINATIONS),
    ),
    field_rule(
        Destination,
        "uri",
        "!self.contains('@')",
        "a destination has no '@': credentials belong in secretName, and the digest is a result",
        lambda it: "@" not in it.uri,
    ),
    field_rule(
        Destination,
        "uri",
        f"!self.startsWith('pvc://') || self.matches('{_CLAIM_FOLDER}')",
        "pvc destinations are written pvc://<claim>/<path>, without a '/' at the end: a claim as a whole is never replaced",
        lambda it: implies(it.scheme == "pvc", matches(it.uri, _CLAIM_FOLDER)),
    ),
)

MODEL_INPUT_RULES = (
    rule(
        ModelInput,
        "",
        "has(self.stage) != has(self.source)",
        "set exactly one of stage and source",
        lambda it: (it.stage is not None) != (it.source is not None),
    ),
)

TOPOLOGY_RULES = (
    rule(
        Topology,
        "processesPerNode",
        "self.gpusPerNode == 0 || !has(self.processesPerNode)",
        "processesPerNode is only for gpusPerNode 0; with GPUs there is one process per GPU",
        lambda it: it.gpus_per_node == 0 or it.processes_per_node is None,
    ),
    rule(
        Topology,
        "",
        "self.nodes * (self.gpusPerNode > 0 ? self.gpusPerNode : (has(self.processesPerNode) ? self.processesPerNode : 1)) "
        "% (self.tensorParallel * self.pipelineParallel) == 0",
        "nodes x processes per node must be divisible by tensorParallel x pipelineParallel",
        lambda it: it.world_size % (it.tensor_parallel * it.pipeline_parallel) == 0,
    ),
    rule(
        Topology,
        "preferred",
        "!(has(self.required) && has(self.preferred))",
        "set only one of required and preferred",
        lambda it: it.required is None or it.preferred is None,
    ),
)

STORAGE_RULES = (
    rule(
        Storage,
        "",
        "has(self.existingClaim) ? !has(self.size) && !has(self.storageClassName) && !has(self.accessMode) : has(self.size)",
        "set either size (with optional storageClassName and accessMode) or existingClaim alone",
        lambda it: it.size is not None if it.existing_claim is None else it.size is it.storage_class_name is it.access_mode is None,
    ),
    rule(
        Storage,
        "retain",
        "!has(self.existingClaim) || self.retain",
        "an existingClaim is never deleted: leave retain true",
        lambda it: implies(it.existing_claim is not None, it.retain),
    ),
)

RULES: tuple[Rule, ...] = (*SOURCE_RULES, *DESTINATION_RULES, *MODEL_INPUT_RULES, *TOPOLOGY_RULES, *STORAGE_RULES)
