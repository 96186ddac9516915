"""The embedded backend: the operator of the cluster, with an API server in memory and pods as local processes."""
