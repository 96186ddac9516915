"""The commands of `rlhf` on a Kubernetes cluster: a kubeconfig and the name of a job in, what the API server knows out."""
