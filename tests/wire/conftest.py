"""Times that tests cannot wait for are shortened; nothing else differs from the process in a cluster."""

import logging
from collections.abc import Iterator

import kopf
import pytest

from rlhf_operator.shell import leader, process, slots, workers
from rlhf_operator.shell.settings import configure_kopf


@pytest.fixture(autouse=True)
def _short_times(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(slots, "QUIET_SECONDS", 0.1)
    monkeypatch.setattr(workers, "RESYNC_SECONDS", (0.8, 1.0))
    monkeypatch.setattr(leader, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(leader, "GIVE_UP_SECONDS", 5.0)
    monkeypatch.setattr(leader, "DURATION_SECONDS", 6)
    monkeypatch.setattr(process, "START_AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(process, "configure_kopf", _configure)
    yield
    logging.getLogger("kopf").setLevel(logging.NOTSET)


def _configure(settings: kopf.OperatorSettings) -> None:
    configure_kopf(settings)
    settings.process.ultimate_exiting_timeout = None  # kopf would kill the test run as if it were the operator
