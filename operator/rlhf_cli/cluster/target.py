"""Which place a command talks to: this machine, or a cluster. One rule, the same for every command that can do both.

It is the cluster when the command line names one: with --cluster, --context, --kubeconfig or --namespace. Else it is this machine
(.rlhf). `submit` and the plugin `kubectl rlhf` have no local form, so there it is always the cluster. Guessing from what exists was
rejected: the same command must not cancel another job tomorrow because a directory is gone.
"""

from dataclasses import dataclass
from pathlib import Path

from rlhf_cli.errors import CommandError


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A cluster, as the command line names it. None leaves the choice to the kubeconfig."""

    kubeconfig: Path | None = None
    context: str | None = None
    namespace: str | None = None
    program: str = "rlhf"
    """What the user typed: `rlhf`, or `kubectl rlhf`."""

    def command(self, verb: str, *arguments: str) -> str:
        """A command about the same cluster, as this user would type it."""
        named = (("--kubeconfig", self.kubeconfig), ("--context", self.context), ("-n", self.namespace))
        options = [f"{name} {value}" for name, value in named if value is not None]
        if not options and self.program == "rlhf" and verb != "submit":
            options = ["--cluster"]
        return " ".join([self.program, verb, *arguments, *options])


def chosen(
    *, cluster: bool, kubeconfig: Path | None, context: str | None, namespace: str | None, workdir: Path | None = None
) -> Target | None:
    """The cluster that the options name, or None for this machine.

    Raises:
        CommandError: 64, when they name both.
    """
    if not cluster and kubeconfig is None and context is None and namespace is None:
        return None
    if workdir is not None:
        raise CommandError(64, f"--workdir: '{workdir}' is a directory of this machine, and the other options name a cluster: remove one")
    return Target(kubeconfig=kubeconfig, context=context, namespace=namespace)
