"""Every string of the API, once: group, kinds, labels, annotations, environment, paths, condition types and reasons."""

from typing import Final

# ---- group, kinds
GROUP = "rlhf.dev"
VERSION = "v1alpha1"
API_VERSION: Final = "rlhf.dev/v1alpha1"
KIND_JOB: Final = "RLHFJob"
KIND_PROFILE: Final = "ClusterRLHFProfile"
PLURAL_JOB = "rlhfjobs"
PLURAL_PROFILE = "clusterrlhfprofiles"
SHORT_JOB = "rlhf"
SHORT_PROFILE = "rlhfprofile"
CATEGORIES = ("all", "ml")
CHANGE_POLICY = "rlhfjob.rlhf.dev"
PROFILE_POLICY = "profile.rlhf.dev"
METADATA_FIELDS: Final = (
    *("name", "namespace", "labels", "annotations", "generateName", "finalizers", "ownerReferences", "managedFields", "selfLink"),
    *("uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"),
)
"""Fields of Kubernetes' ObjectMeta."""
BUILTINS: Final = {"models": ("tiny-llama",), "datasets": ("tiny-chat-sft", "tiny-chat-preference", "tiny-chat-prompts")}
"""What the trainer makes itself: `builtin://<kind>/<name>`."""
PREPARE = "prepare"
"""Name of the implicit first stage."""

# ---- labels and annotations
LABEL_JOB = "rlhf.dev/job"
LABEL_JOB_UID = "rlhf.dev/job-uid"
LABEL_STAGE = "rlhf.dev/stage"
LABEL_ATTEMPT = "rlhf.dev/attempt"
LABEL_SECRET_USE = "rlhf.dev/use"
LABEL_APP_NAME = "app.kubernetes.io/name"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_QUEUE = "kueue.x-k8s.io/queue-name"
LABEL_COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"
APP_NAME = "rlhf"
MANAGER = "rlhf-operator"
MANAGED_BY_OPERATOR = "rlhf.dev/operator"
MANAGED_BY_MULTIKUEUE = "kueue.x-k8s.io/multikueue"
ANNOTATION_SPEC_HASH = "rlhf.dev/spec-hash"
ANNOTATION_RUN = "rlhf.dev/run"
ANNOTATION_TOPOLOGY_REQUIRED = "kueue.x-k8s.io/podset-required-topology"
ANNOTATION_TOPOLOGY_PREFERRED = "kueue.x-k8s.io/podset-preferred-topology"
ANNOTATION_SAFE_TO_EVICT = "cluster-autoscaler.kubernetes.io/safe-to-evict"

# ---- ports, environment and paths of a pod
PORT_RENDEZVOUS = "rendezvous"
PORT_PROGRESS = "progress"
RENDEZVOUS_PORT = 29500
PROGRESS_PORT = 9400
CONTAINER = "trainer"
COMMAND = "rlhf-launch"
ENV_NUM_NODES = "PET_NNODES"
ENV_PROCESSES_PER_NODE = "PET_NPROC_PER_NODE"
ENV_NODE_RANK = "PET_NODE_RANK"
ENV_MASTER_ADDRESS = "PET_MASTER_ADDR"
ENV_MASTER_PORT = "PET_MASTER_PORT"
ENV_RUN_SHA256 = "RLHF_RUN_SHA256"
PATH_RUN = "/etc/rlhf/run.json"
PATH_SECRETS = "/etc/rlhf/secrets"
PATH_WORKSPACE = "/workspace"
PATH_CLAIMS = "/claims"
PATH_TERMINATION_LOG = "/dev/termination-log"

# ---- below the root of a job on its volume
DIR_SOURCES = "sources"
DIR_DATASETS = "datasets"
DIR_STAGES = "stages"
DIR_CHECKPOINTS = "checkpoints"
DIR_OUTPUT = "output"
DIR_MODEL = "model"
DIR_ADAPTER = "adapter"
DIR_CRITIC = "critic"
DIR_LOGS = "logs"
FILE_MANIFEST = "manifest.json"
FILE_PREPARED = "prepared.json"
FILE_METRICS = "metrics.jsonl"
FILE_SAMPLES = "samples.jsonl"
FILE_EVENTS = "events.jsonl"

# ---- metrics that a reader of a job looks for: in a status they have room before all others
HEADLINE_METRICS = frozenset(
    {
        *("loss", "learning_rate", "grad_norm", "tokens_per_second", "eval_loss", "rows", "dropped_rows"),
        *("accuracy", "perplexity_increase"),
        *("reward_mean", "kl_mean", "answer_tokens_mean", "eos_fraction", "entropy", "clip_fraction", "health"),
        *("exact_match", "exact_match_en", "exact_match_zh", "exact_match_sampled", "refusal_fraction"),
        *("base_exact_match", "base_exact_match_en", "base_exact_match_zh", "base_exact_match_sampled", "base_refusal_fraction"),
    }
)

# ---- conditions and their reasons
CONDITION_ACCEPTED = "Accepted"
CONDITION_STORAGE_READY = "StorageReady"
CONDITION_QUOTA_RESERVED = "QuotaReserved"
CONDITION_PODS_READY = "PodsReady"
CONDITION_STALLED = "Stalled"
CONDITION_SUSPENDED = "Suspended"
CONDITION_PUBLISHED = "Published"
CONDITION_COMPLETE = "Complete"
CONDITION_FAILED = "Failed"
CONDITION_READY = "Ready"  # of a profile

REASON_VALID = "Valid"
REASON_INVALID = "Invalid"
REASON_PROFILE_NOT_FOUND = "ProfileNotFound"
REASON_NAMESPACE_NOT_ALLOWED = "NamespaceNotAllowed"
REASON_LIMIT_EXCEEDED = "LimitExceeded"
REASON_SOURCE_NOT_ALLOWED = "SourceNotAllowed"
REASON_DESTINATION_NOT_ALLOWED = "DestinationNotAllowed"
REASON_SECRET_NOT_PERMITTED = "SecretNotPermitted"
REASON_SIGNING_NOT_CONFIGURED = "SigningNotConfigured"
REASON_UNSUPPORTED = "Unsupported"
REASON_DOES_NOT_FIT = "DoesNotFit"
REASON_NAME_CONFLICT = "NameConflict"
REASON_BOUND = "Bound"
REASON_PENDING = "Pending"
REASON_LOST = "Lost"
REASON_PROVISIONING_FAILED = "ProvisioningFailed"
REASON_ACCESS_MODE_MISMATCH = "AccessModeMismatch"
REASON_ADMITTED = "Admitted"
REASON_NO_QUEUE = "NoQueue"
REASON_WAITING = "Waiting"
REASON_PREEMPTED = "Preempted"
REASON_INADMISSIBLE = "Inadmissible"
REASON_CONCURRENCY_LIMIT = "ConcurrencyLimit"
REASON_ALL_READY = "AllReady"
REASON_UNSCHEDULABLE = "Unschedulable"
REASON_IMAGE_PULL = "ImagePull"
REASON_CREATE_CONTAINER_CONFIG = "CreateContainerConfig"
REASON_QUOTA_EXCEEDED = "QuotaExceeded"
REASON_API_REJECTED = "ApiRejected"
REASON_INITIALIZING = "Initializing"
REASON_NO_PODS = "NoPods"
REASON_NOT_STALLED = "NotStalled"
REASON_NO_PROGRESS = "NoProgress"
REASON_BACKOFF = "Backoff"
REASON_NOT_SUSPENDED = "NotSuspended"
REASON_USER = "User"
REASON_QUEUE = "Queue"
REASON_PUBLISHED = "Published"
REASON_NOT_REQUESTED = "NotRequested"
REASON_REJECTED = "Rejected"
REASON_STAGES_SUCCEEDED = "StagesSucceeded"
REASON_MAX_ATTEMPTS_EXCEEDED = "MaxAttemptsExceeded"
REASON_MAX_DISRUPTIONS_EXCEEDED = "MaxDisruptionsExceeded"
# Outcomes of attempts double as reasons: outcome.Outcome holds them.

# ---- first words of an attempt's message
CAUSE_JOB_DELETED = "JobDeleted"
CAUSE_POD_DELETED = "PodDeleted"
CAUSE_POD_LOST = "PodLost"
CAUSE_QUEUE_EVICTED = "QueueEvicted"
CAUSE_EVIDENCE_LOST = "EvidenceLost"
CAUSE_SPEC_HASH_MISMATCH = "SpecHashMismatch"
CAUSE_SUSPENDED = "Suspended"
CAUSE_RERUN = "Rerun"

# ---- events on an RLHFJob
EVENT_ATTEMPT_STARTED = "AttemptStarted"
EVENT_STAGE_SUCCEEDED = "StageSucceeded"
EVENT_RESUMED = "Resumed"
EVENT_SUSPENDED = "Suspended"
EVENT_RERUN = "Rerun"
EVENT_PUBLISHED = "Published"
EVENT_COMPLETE = "Complete"
EVENT_STALL_CLEARED = "StallCleared"
EVENT_NOT_ACCEPTED = "NotAccepted"
EVENT_ATTEMPT_FAILED = "AttemptFailed"
EVENT_ATTEMPT_DISRUPTED = "AttemptDisrupted"
EVENT_STALLED = "Stalled"
EVENT_CHECKPOINT_SKIPPED = "CheckpointSkipped"
EVENT_NAME_CONFLICT = "NameConflict"
EVENT_PROGRESS_UNREACHABLE = "ProgressUnreachable"
EVENT_STAGE_FAILED = "StageFailed"
EVENT_FAILED = "Failed"


def attempt_name(job: str, stage: str, attempt: int) -> str:
    """Name of the Job, and of the Service, of an attempt."""
    return f"{job}-{stage}-r{attempt}"


def claim_name(job: str, job_uid: str) -> str:
    """Name of the claim that the operator creates for a job."""
    return f"{job}-{job_uid[:8]}"


def snapshot_name(job: str, profile_hash: str) -> str:
    """Name of the ControllerRevision that keeps a job's profile; `profile_hash` is plain hex."""
    return f"{job}-profile-{profile_hash[:8]}"


def network_policy_name(job: str) -> str:
    """Name of the NetworkPolicy around a job's gangs."""
    return f"{job}-isolate"


def attempt_directory(stage: str, attempt: int) -> str:
    """Where an attempt writes, relative to the root of the job."""
    return f"{DIR_STAGES}/{stage}/r{attempt}"
