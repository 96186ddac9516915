"""The status of an RLHFJob as it is stored: JSON in, `JobStatus` out, or a defect that stops every decision about that job."""

from pydantic import ValidationError

from rlhf_api.status import JobStatus
from rlhf_operator.shell.kube import Object


class UnreadableStatus(Exception):
    """The status has a form that this version does not know, as after a newer operator. Nothing may be decided from it.

    It is a defect, not a state of the job: it is logged, counted and looked at again ever more slowly. Reading it as empty would run
    finished work again, under numbers of attempts that were used.
    """


def read(body: Object) -> JobStatus:
    """The status of an RLHFJob.

    Raises:
        UnreadableStatus: it is not empty, and not one of ours.
    """
    try:
        return JobStatus.from_wire(body.get("status", {}))
    except ValidationError as error:
        first, about = error.errors()[0], f"{body['metadata']['namespace']}/{body['metadata']['name']}"
        path = ".".join(map(str, first["loc"]))
        raise UnreadableStatus(f"RLHFJob {about}: status.{path}: {first['msg']}; use the operator that wrote it, or a newer one") from error
