"""What to do about a reason of the API. Every reason that can hold a job up or end it stands here once.

The reasons are those of a job's conditions and the outcomes of attempts. The message of the job says what exactly happened.
"""

from collections.abc import Mapping
from types import MappingProxyType

from rlhf_api import names
from rlhf_api.outcome import Outcome

ADVICE: Mapping[str, str] = MappingProxyType(
    {
        # ---- not accepted
        names.REASON_INVALID: "Repair the fields that the message names; `rlhf validate` lists all of them.",
        names.REASON_PROFILE_NOT_FOUND: "Name an existing profile in spec.profile (kubectl get rlhfprofile), or ask for one.",
        names.REASON_NAMESPACE_NOT_ALLOWED: "Name a profile that this namespace may use, or ask for the label that it wants.",
        names.REASON_LIMIT_EXCEEDED: "Ask for less, within the profile's limits, or ask the platform team for another profile.",
        names.REASON_SOURCE_NOT_ALLOWED: "Use a source below a prefix that the profile allows, or ask for another one.",
        names.REASON_DESTINATION_NOT_ALLOWED: "Publish below a prefix that the profile allows, or ask for another one.",
        names.REASON_SECRET_NOT_PERMITTED: "Let its owner consent: the label rlhf.dev/use=true and a Role (docs/security.md).",
        names.REASON_SIGNING_NOT_CONFIGURED: "Set publish.sign: false, or ask the platform team for a signing key in the profile.",
        names.REASON_UNSUPPORTED: "Choose what the message names instead: this version cannot run this combination.",
        names.REASON_DOES_NOT_FIT: "Take a change that the message names: more GPUs, LoRA, a smaller batch. See `rlhf plan`.",
        names.REASON_NAME_CONFLICT: "Remove the object that the message names, or give the job another name.",
        # ---- storage
        names.REASON_PENDING: "Look at the claim: kubectl describe pvc. Its class must offer this size and access mode.",
        names.REASON_LOST: "The claim is gone. Restore it, or start over with a rerun of every stage.",
        names.REASON_PROVISIONING_FAILED: "The StorageClass cannot make this volume: read the message, choose another class or size.",
        names.REASON_ACCESS_MODE_MISMATCH: "Gangs on several nodes need ReadWriteMany: choose a claim or class that offers it.",
        # ---- queue
        names.REASON_WAITING: "Nothing: the job waits in its queue.",
        names.REASON_PREEMPTED: "Nothing: another job has its place; it goes on from its checkpoint later.",
        names.REASON_INADMISSIBLE: "Ask for less, or name another queue: this one can never admit the job.",
        names.REASON_CONCURRENCY_LIMIT: "Nothing: it starts when another job of this namespace ends.",
        # ---- pods
        names.REASON_UNSCHEDULABLE: "Free or add nodes, or ask for fewer: the message has the scheduler's words.",
        names.REASON_IMAGE_PULL: "Show the message to the platform team: the image and its pull secrets are theirs.",
        names.REASON_CREATE_CONTAINER_CONFIG: "Repair what the message names, often a key of a Secret. The same attempt goes on.",
        names.REASON_QUOTA_EXCEEDED: "Free quota in the namespace, or ask for less. It is tried again by itself.",
        names.REASON_API_REJECTED: "Show the message to the platform team: a policy of the cluster refuses the object.",
        names.REASON_INITIALIZING: "Wait: volumes are mounted and models loaded. The startup deadline bounds it.",
        names.REASON_NO_PODS: "Look at the events of the Job: kubectl describe job. Often a quota or a policy.",
        names.REASON_NO_PROGRESS: "Look at the logs: the step has not moved. At the progress deadline it is repeated.",
        names.REASON_BACKOFF: "Nothing: the next attempt starts by itself. The message says when.",
        # ---- suspended
        names.REASON_USER: "Let it go on: RESUME, or set spec.suspend to false.",
        names.REASON_QUEUE: "Nothing: its queue suspended it; it goes on from its checkpoint later.",
        # ---- publish
        names.REASON_REJECTED: "The destination refused the artifact: look at the message, the permissions and the space there.",
        # ---- the end of a stage
        names.REASON_MAX_ATTEMPTS_EXCEEDED: "It failed as often as maxAttempts allows. Repair the cause, then RESUME.",
        names.REASON_MAX_DISRUPTIONS_EXCEEDED: "The platform ended too many attempts. Look at the nodes, then RESUME.",
        Outcome.CONFIG_INVALID: "Change what the message names: the settings contradict the model or the data.",
        Outcome.DATA_INVALID: "Repair the rows that the message names by file and row, then RESUME.",
        Outcome.INPUT_INVALID: "A file is missing or is not the one that its digest names. Restore it, or correct the source.",
        Outcome.INTERNAL_ERROR: "A defect of the trainer. Report it with the log and the message; a rerun may pass.",
        Outcome.GPU_OUT_OF_MEMORY: "Take the smaller plan that the message names; a retry would fail the same way.",
        Outcome.HOST_OUT_OF_MEMORY: "The pod's memory limit was reached: more memory in the profile, or a smaller batch.",
        Outcome.COMMUNICATION: "A worker lost its peers. Usually another pod ended first: look at the attempts and the nodes.",
        Outcome.STORAGE: "The volume is full or failing: make room or a larger claim. The last complete checkpoint is safe.",
        Outcome.PREEMPTED: "Nothing: the platform asked the attempt to stop, a checkpoint is saved.",
        Outcome.DIVERGED: "Lower the learning rate, raise kl.coefficient, or look at the data; a retry would diverge again.",
        Outcome.GATE_FAILED: "The model missed minAccuracy or maxPerplexityIncrease: train longer, or lower the bar.",
        Outcome.STALLED: "Nothing moved until the deadline. The stacks of the workers are in the log.",
        Outcome.APP_ERROR: "The process ended with a code that has no words. Its last lines are in the log.",
        Outcome.DISRUPTED: "Nothing: the platform ended the attempt; the next one goes on from the checkpoint.",
        Outcome.STARTUP_TIMEOUT: "The pods were not ready in time. Look at image, capacity and volumes.",
        Outcome.DEADLINE_EXCEEDED: "Raise activeDeadlineSeconds within the profile's limit, or do fewer steps, then RESUME.",
        Outcome.OUTPUT_INVALID: "The stage ended without an output that can be proven. Look at its log and the space on the volume.",
        Outcome.CANCELLED: "Nothing: it was suspended or repeated on purpose.",
    }
)
"""Reason -> what to do. `RESUME` stands for the command that lets the job go on."""


def advice_for(reason: str, resume: str) -> str:
    """What to do about a reason; empty when there is nothing to say."""
    return ADVICE.get(reason, "").replace("RESUME", resume)
