"""ClusterRLHFProfile: what the platform team decides. Images, hardware, limits and allowed sources never stand in a job."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from rlhf_api import names
from rlhf_api.base import ApiModel, Bool, ByteQuantity, CpuQuantity, Int, ObjectName, ObservedModel, is_empty
from rlhf_api.job import ObjectMeta
from rlhf_api.status import MAX_CONDITIONS, Condition

LabelKey = Annotated[str, StringConstraints(min_length=1, max_length=317)]
LabelValue = Annotated[str, StringConstraints(max_length=63)]
AnnotationValue = Annotated[str, StringConstraints(max_length=1024)]
Prefix = Annotated[str, StringConstraints(max_length=512)]
Count = Annotated[str, StringConstraints(max_length=16, pattern=r"^[1-9][0-9]*$")]
"""A whole number above 0, as text like all quantities: the pod's GPUs multiply it."""


class Toleration(ApiModel):
    """A taint that the pods of a job tolerate."""

    key: str | None = Field(None, max_length=317, description="Taint key; unset with operator Exists = all taints.")
    operator: Literal["Exists", "Equal"] = Field("Equal", description="Whether the value must be equal too.")
    value: str | None = Field(None, max_length=63, description="Taint value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(None, description="Taint effect; unset = all effects.")
    toleration_seconds: Int | None = Field(None, ge=0, le=86400, description="How long NoExecute is tolerated; unset = for ever.")


class Scheduling(ApiModel):
    """Where pods may run and in which order."""

    node_selector: dict[LabelKey, LabelValue] = Field({}, exclude_if=is_empty, max_length=16, description="Labels of the nodes.")
    tolerations: tuple[Toleration, ...] = Field((), exclude_if=is_empty, max_length=16, description="Tolerations of all pods.")
    scheduler_name: ObjectName = Field("default-scheduler", description="Scheduler of all pods.")
    runtime_class_name: ObjectName | None = Field(None, description="RuntimeClass of all pods.")
    priority_classes: tuple[ObjectName, ...] = Field((), max_length=8, description="PriorityClasses users may name; empty = none.")
    default_queue: ObjectName | None = Field(None, description="Kueue LocalQueue of jobs that name none.")
    require_queue: Bool = Field(False, description="Refuse jobs without a queue.")


class Limits(ApiModel):
    """The most that one job, and one namespace, may use."""

    max_nodes: Int = Field(1, ge=1, le=1024, description="Nodes of a stage.")
    max_gpus: Int = Field(8, ge=0, le=16384, description="GPUs a job holds at the same time.")
    max_active_deadline_seconds: Int = Field(259_200, ge=60, le=31_536_000, description="Running time of a job; also the default.")
    max_ttl_seconds: Int = Field(2_592_000, ge=0, le=31_536_000, description="TTL after finishing.")
    max_storage: ByteQuantity = Field("1Ti", description="Size of the claim.")
    max_running_jobs_per_namespace: Int = Field(10, ge=1, le=1000, description="Further jobs wait in Pending.")


class Sources(ApiModel):
    """What jobs may fetch."""

    allow: tuple[Prefix, ...] = Field((), max_length=32, description="Prefixes such as hf://org/; empty = builtin only.")
    allow_trust_remote_code: Bool = Field(False, description="Let jobs run Python code shipped with a model.")
    allow_private_addresses: Bool = Field(False, description="Let Prepare connect to private, loopback and link-local addresses.")


class PublishPolicy(ApiModel):
    """Where artifacts may go."""

    allow: tuple[Prefix, ...] = Field((), max_length=32, description="Prefixes such as oci://registry.example.com/ml/; empty = nowhere.")
    require_signature: Bool = Field(False, description="Refuse Publish stages with sign: false.")
    signing_secret_name: ObjectName | None = Field(None, description="Secret in the namespace of the job with the private key.")


class StoragePolicy(ApiModel):
    """Which claims jobs may create or use."""

    default_class: ObjectName | None = Field(None, description="StorageClass of jobs that name none; unset = the default of the cluster.")
    allowed_classes: tuple[ObjectName, ...] = Field((), max_length=16, description="StorageClasses users may name; empty = none.")
    allow_existing_claims: Bool = Field(False, description="Let jobs use existingClaim and pvc:// uris.")


class Gpu(ApiModel):
    """The GPU of these nodes."""

    memory_gib: Int = Field(ge=1, le=2048, alias="memoryGiB", description="Memory of one GPU in GiB.")
    resource_name: str = Field("nvidia.com/gpu", min_length=1, max_length=253, description="Extended resource that pods request.")
    product: str | None = Field(None, max_length=63, description="Name of the GPU, for readers.")


class PerGpu(ApiModel):
    """Requests, which equal the limits, for each GPU of a pod."""

    cpu: CpuQuantity = Field("8", description="CPUs for each GPU.")
    memory: ByteQuantity = Field("64Gi", description="Memory for each GPU.")
    extended: dict[LabelKey, Count] = Field(
        {},
        exclude_if=is_empty,
        max_length=8,
        description='Further extended resources for each GPU, in whole numbers without a unit, for example rdma/hca: "1"; '
        'ephemeral-storage counts bytes: "107374182400".',
    )


class PerProcess(ApiModel):
    """Requests, which equal the limits, for each process of a CPU-only pod, and for Prepare and Publish."""

    cpu: CpuQuantity = Field("1", description="CPUs for each process.")
    memory: ByteQuantity = Field("2Gi", description="Memory for each process.")


class Resources(ApiModel):
    """What a pod requests."""

    per_gpu: PerGpu = Field(PerGpu(), description="Requests, which equal the limits, for each GPU of a pod.")
    per_process: PerProcess = Field(PerProcess(), description="The same for each process of CPU-only pods, and for Prepare and Publish.")
    shared_memory: ByteQuantity = Field("1Gi", description="Limit of /dev/shm; counts as memory of the pod.")


class EnvVar(ApiModel):
    """A variable of the workers' environment."""

    name: str = Field(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="Name of the variable.")
    value: str = Field(max_length=1024, description="Its value.")


class Retry(ApiModel):
    """Pace of new attempts."""

    backoff_seconds: Int = Field(
        10,
        ge=0,
        le=300,
        description="The attempt after a first failure starts at once; the next waits this long, doubling up to 300 s, until a newer "
        "checkpoint exists.",
    )
    node_loss_seconds: Int = Field(30, ge=0, le=3600, description="Toleration of an unreachable node.")


class Security(ApiModel):
    """Who the pods run as. The rest of the restricted Pod Security Standard is fixed."""

    run_as_user: Int = Field(1000, ge=1, le=2_147_483_647, description="User and group of the processes.")
    fs_group: Int = Field(1000, ge=1, le=2_147_483_647, description="Group of the files on the volume.")


class AllowedNamespaces(ApiModel):
    """Which namespaces may use the profile."""

    match_labels: dict[LabelKey, LabelValue] = Field(max_length=8, description="Labels a namespace must carry.")


class ProfileSpec(ApiModel):
    """What the platform team decides for the jobs that name this profile."""

    description: str | None = Field(None, max_length=512, description="Text for users.")
    image: str = Field(min_length=1, max_length=512, description="Trainer image of every stage, pinned: repository@sha256:digest.")
    allow_unpinned_image: Bool = Field(False, description="Accept an image without digest (development clusters).")
    image_pull_secrets: tuple[ObjectName, ...] = Field(
        (), exclude_if=is_empty, max_length=4, description="Pull secrets in the namespace of the job."
    )
    service_account_name: ObjectName = Field(
        "default", description="ServiceAccount of the pods in the namespace of the job; its token is never mounted."
    )
    allowed_namespaces: AllowedNamespaces | None = Field(None, description="Which namespaces may use the profile; unset = all.")
    pod_labels: dict[LabelKey, LabelValue] = Field({}, exclude_if=is_empty, max_length=16, description="Extra labels of all pods.")
    pod_annotations: dict[LabelKey, AnnotationValue] = Field(
        {}, exclude_if=is_empty, max_length=16, description="Extra annotations of all pods."
    )
    scheduling: Scheduling = Field(Scheduling(), description="Where pods may run and in which order.")
    limits: Limits = Field(Limits(), description="The most that one job, and one namespace, may use.")
    sources: Sources = Field(Sources(), description="What jobs may fetch.")
    publish: PublishPolicy = Field(PublishPolicy(), description="Where artifacts may go.")
    storage: StoragePolicy = Field(StoragePolicy(), description="Which claims jobs may create or use.")
    network_policy: Literal["Isolate", "None"] = Field(
        "Isolate", description="Isolate = training pods reach only their gang and DNS; Prepare and Publish may leave the cluster."
    )
    gpu: Gpu | None = Field(None, description="The GPU of these nodes; unset = a CPU-only profile.")
    resources: Resources = Field(Resources(), description="What a pod requests.")
    env: tuple[EnvVar, ...] = Field((), max_length=64, description="Extra environment of all workers, for example NCCL_SOCKET_IFNAME.")
    retry: Retry = Field(Retry(), description="Pace of new attempts.")
    security: Security = Field(Security(), description="Who the pods run as.")


class ProfileStatus(ObservedModel):
    """What the operator says about a profile."""

    observed_generation: Int | None = Field(None, ge=0)
    running_jobs: Int = Field(0, ge=0)
    conditions: tuple[Condition, ...] = Field((), max_length=MAX_CONDITIONS)


class ProfileMeta(ObjectMeta):
    """Metadata of a profile: a cluster object whose name jobs write."""

    name: ObjectName  # longer than the name of a job may be
    namespace: str = Field("", exclude_if=is_empty)


class ClusterRLHFProfile(ApiModel):
    """Images, hardware, limits and allowed sources of the jobs that name it."""

    api_version: Literal["rlhf.dev/v1alpha1"] = names.API_VERSION
    kind: Literal["ClusterRLHFProfile"] = names.KIND_PROFILE
    metadata: ProfileMeta = Field(description="At least the name of the profile.")
    spec: ProfileSpec = Field(description="What the platform team decides for the jobs that name this profile.")
    status: ProfileStatus | None = None
