"""The rule that says whether a command talks to this machine or to a cluster."""

from pathlib import Path

import pytest

from rlhf_cli.cluster.target import Target, chosen
from rlhf_cli.errors import CommandError


def choose(**options: object) -> Target | None:
    defaults: dict[str, object] = {"cluster": False, "kubeconfig": None, "context": None, "namespace": None}
    return chosen(**(defaults | options))  # type: ignore[arg-type]


def test_without_an_option_that_names_a_cluster_it_is_this_machine() -> None:
    assert choose() is None
    assert choose(workdir=Path("here")) is None


@pytest.mark.parametrize("option", [{"cluster": True}, {"kubeconfig": Path("k")}, {"context": "prod"}, {"namespace": "team-a"}])
def test_each_option_that_names_a_cluster_is_enough(option: dict[str, object]) -> None:
    assert choose(**option) is not None


def test_both_at_once_is_refused() -> None:
    with pytest.raises(CommandError, match=r"--workdir: 'here' .* remove one"):
        choose(namespace="team-a", workdir=Path("here"))


@pytest.mark.parametrize(
    ("target", "command"),
    [
        pytest.param(Target(), "rlhf logs chat -f --cluster", id="the current context must be named somehow"),
        pytest.param(Target(context="prod", namespace="team-a"), "rlhf logs chat -f --context prod -n team-a", id="what the user typed"),
        pytest.param(Target(program="kubectl rlhf"), "kubectl rlhf logs chat -f", id="the plugin needs no option"),
    ],
)
def test_commands_are_repeated_as_their_user_would_type_them(target: Target, command: str) -> None:
    assert target.command("logs", "chat", "-f") == command


def test_submit_needs_no_option_that_names_a_cluster() -> None:
    assert Target().command("submit", "-f", "job.yaml") == "rlhf submit -f job.yaml"
