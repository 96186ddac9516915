"""Admission policies: the rules about changes of a job, and (optional) the limits of its profile.

Both look at `rlhfjobs` without the status subresource, so that status writes, the operator's most frequent request, do not pay for
them. The operator checks the same, so a cluster without these policies is as safe; it only says no later.
"""

import re

from rlhf_api import names
from rlhf_api.base import Wire
from rlhf_api.crd.profile_limits import LIMITS
from rlhf_api.rules.changes import CHANGE_RULES

_POLICY_API = "admissionregistration.k8s.io/v1"

_SOURCES = (
    "sft.dataset", "sft.init.source", "rewardModel.dataset", "rewardModel.init.source", "ppo.prompts", "ppo.pretrainDataset",
    "ppo.policy.source", "ppo.reward.source", "ppo.critic.source", "quantize.evalDataset", "quantize.model.source",
)  # fmt: skip

_CONCERNS_LIMITS = (
    "request.operation == 'CREATE' || object.spec.stages != oldObject.spec.stages || object.spec.topology != oldObject.spec.topology || "
    "object.spec.runPolicy != oldObject.spec.runPolicy || object.spec.?queueName != oldObject.spec.?queueName || "
    "object.spec.?priorityClassName != oldObject.spec.?priorityClassName"
)


def change_policy() -> tuple[Wire, Wire]:
    """The policy about changes, and its binding."""
    validations = [{"expression": _about_objects(rule.cel), "message": rule.message, "reason": "Invalid"} for rule in CHANGE_RULES]
    policy = _policy(names.CHANGE_POLICY, ["UPDATE"], {"validations": validations})
    return policy, _binding(names.CHANGE_POLICY, {})


def profile_policy() -> tuple[Wire, Wire]:
    """The policy about limits of the profile, and its binding, which runs it once for each profile."""
    spec: Wire = {
        "matchConditions": [{"name": "concerns-limits", "expression": _CONCERNS_LIMITS}],
        "variables": [{"name": name, "expression": expression} for name, expression in _variables()],
        "validations": [
            {"expression": f"!variables.mine || ({expression})", "messageExpression": message, "reason": "Forbidden"}
            for expression, message in LIMITS
        ],
    }
    policy = _policy(names.PROFILE_POLICY, ["CREATE", "UPDATE"], spec)
    policy["spec"] = {"paramKind": {"apiVersion": names.API_VERSION, "kind": names.KIND_PROFILE}, **policy["spec"]}
    return policy, _binding(names.PROFILE_POLICY, {"paramRef": {"selector": {}, "parameterNotFoundAction": "Allow"}})


def _about_objects(cel: str) -> str:
    """The rule of a schema in the words of a policy."""
    return re.sub(r"\bself\b", "object", re.sub(r"\boldSelf\b", "oldObject", cel))


def _policy(name: str, operations: list[str], spec: Wire) -> Wire:
    resources = {"apiGroups": [names.GROUP], "apiVersions": [names.VERSION], "operations": operations, "resources": [names.PLURAL_JOB]}
    return {
        "apiVersion": _POLICY_API,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {"failurePolicy": "Fail", "matchConstraints": {"resourceRules": [resources]}, **spec},
    }


def _binding(name: str, spec: Wire) -> Wire:
    return {
        "apiVersion": _POLICY_API,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"], **spec},
    }


def _collected(path: str) -> str:
    """The uris that stages have at a path, as a CEL list of texts."""
    optional = "".join(f".?{token}" for token in path.split("."))
    return f"object.spec.stages.filter(st, st{optional}.?uri.hasValue()).map(st, string(st.{path}.uri))"


def _largest(of_topology: str) -> str:
    """A figure of the job's topology and of every stage's own, as a CEL list."""
    job, stage = (of_topology.replace("@", f"{owner}.topology") for owner in ("object.spec", "st"))
    return f"[{job}] + object.spec.stages.filter(st, has(st.topology)).map(st, {stage})"


def _variables() -> tuple[tuple[str, str], ...]:
    return (
        ("mine", "params.metadata.name == object.spec.profile"),
        ("sources", " + ".join(("[object.spec.model.source.uri]", *(_collected(path) for path in _SOURCES)))),
        ("destinations", _collected("publish.destination")),
        ("nodes", _largest("@.nodes")),
        ("gpus", _largest("@.nodes * @.gpusPerNode")),
    )
