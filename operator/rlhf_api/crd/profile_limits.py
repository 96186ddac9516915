"""The limits that a profile sets, as the API server checks them: an expression, and the expression of what it says when that is false.

`params` is the profile, `object` the job; the variables come from `policies.py`. `rlhf_operator.core.admission` checks the same.
"""

LIMITS = (
    (
        "!has(params.spec.allowedNamespaces) || params.spec.allowedNamespaces.matchLabels.all(k, "
        "namespaceObject.metadata.?labels[?k].orValue('') == params.spec.allowedNamespaces.matchLabels[k])",
        "'profile ' + object.spec.profile + ' may not be used in namespace ' + object.metadata.namespace",
    ),
    (
        "variables.nodes.all(x, x <= params.spec.limits.maxNodes)",
        "'a stage asks for more nodes than the profile allows: ' + string(params.spec.limits.maxNodes)",
    ),
    (
        "variables.gpus.all(x, x <= (has(params.spec.gpu) ? params.spec.limits.maxGpus : 0))",
        "'a stage asks for more GPUs than the profile allows: ' + string(has(params.spec.gpu) ? params.spec.limits.maxGpus : 0)",
    ),
    (
        "variables.sources.all(u, u.startsWith('builtin://') || params.spec.sources.allow.exists(p, u.startsWith(p)))",
        "'source not allowed by the profile: ' + variables.sources.filter(u, !u.startsWith('builtin://') && "
        "!params.spec.sources.allow.exists(p, u.startsWith(p)))[0]",
    ),
    (
        "variables.destinations.all(u, params.spec.publish.allow.exists(p, u.startsWith(p)))",
        "'destination not allowed by the profile: ' + "
        "variables.destinations.filter(u, !params.spec.publish.allow.exists(p, u.startsWith(p)))[0]",
    ),
    (
        "params.spec.storage.allowExistingClaims || (!has(object.spec.storage.existingClaim) && "
        "!variables.sources.exists(u, u.startsWith('pvc://')) && "
        "!variables.destinations.exists(u, u.startsWith('pvc://')))",
        "'the profile does not allow existing claims (storage.existingClaim, pvc://)'",
    ),
    (
        "!object.spec.model.trustRemoteCode || params.spec.sources.allowTrustRemoteCode",
        "'the profile does not allow trustRemoteCode'",
    ),
    (
        "!params.spec.publish.requireSignature || object.spec.stages.all(st, !has(st.publish) || st.publish.sign)",
        "'the profile requires publish.sign: true'",
    ),
    (
        "!has(object.spec.priorityClassName) || object.spec.priorityClassName in params.spec.scheduling.priorityClasses",
        "'the profile does not list the priorityClassName ' + object.spec.priorityClassName",
    ),
    (
        "!params.spec.scheduling.requireQueue || has(object.spec.queueName) || has(params.spec.scheduling.defaultQueue)",
        "'the profile requires a queueName'",
    ),
    (
        "!has(object.spec.storage.storageClassName) || object.spec.storage.storageClassName in params.spec.storage.allowedClasses",
        "'the profile does not list the storageClassName ' + object.spec.storage.storageClassName",
    ),
    (
        "!has(object.spec.storage.size) || quantity(object.spec.storage.size).compareTo(quantity(params.spec.limits.maxStorage)) <= 0",
        "'storage.size is above the limit of the profile: ' + params.spec.limits.maxStorage",
    ),
    (
        "object.spec.runPolicy.?ttlSecondsAfterFinished.orValue(0) <= params.spec.limits.maxTtlSeconds",
        "'runPolicy.ttlSecondsAfterFinished is above the limit of the profile: ' + string(params.spec.limits.maxTtlSeconds)",
    ),
    (
        "object.spec.runPolicy.?activeDeadlineSeconds.orValue(0) <= params.spec.limits.maxActiveDeadlineSeconds && "
        "object.spec.stages.all(st, "
        "st.?runPolicy.?activeDeadlineSeconds.orValue(0) <= params.spec.limits.maxActiveDeadlineSeconds)",
        "'an activeDeadlineSeconds is above the limit of the profile: ' + string(params.spec.limits.maxActiveDeadlineSeconds)",
    ),
)
