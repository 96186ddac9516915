"""How many pods and processes an attempt has, and where they stand."""

from pydantic import Field

from rlhf_api.base import ApiModel, Int, NodeLabel


class Topology(ApiModel):
    """Pods and processes of an attempt."""

    nodes: Int = Field(1, ge=1, le=1024, description="Pods of an attempt, one per node.")
    gpus_per_node: Int = Field(ge=0, le=16, description="GPUs and processes of each pod; 0 = CPU only.")
    processes_per_node: Int | None = Field(None, ge=1, le=64, description="Processes of each pod, only with gpusPerNode 0; unset = 1.")
    tensor_parallel: Int = Field(1, ge=1, le=64, description="Processes that share each layer.")
    pipeline_parallel: Int = Field(1, ge=1, le=64, description="Groups of consecutive layers, each on its own processes.")
    required: NodeLabel | None = Field(None, description="Node label whose value all pods must share (needs a queue).")
    preferred: NodeLabel | None = Field(None, description="Node label whose value pods should share (needs a queue).")

    @property
    def num_processes_per_node(self) -> int:
        """Workers of each pod: one per GPU, or what `processesPerNode` says on CPUs."""
        return self.gpus_per_node or self.processes_per_node or 1

    @property
    def world_size(self) -> int:
        """Workers of the gang."""
        return self.nodes * self.num_processes_per_node

    @property
    def num_gpus(self) -> int:
        """GPUs that the gang holds."""
        return self.nodes * self.gpus_per_node

    @property
    def data_parallel(self) -> int:
        """Workers, or groups of workers, that take different rows."""
        return max(1, self.world_size // (self.tensor_parallel * self.pipeline_parallel))
