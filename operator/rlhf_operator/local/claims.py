"""Which directory of this machine stands for which claim of a job: all of them are checked before a pod starts, which could not say it."""

from collections.abc import Mapping
from pathlib import Path

from rlhf_api.job import RLHFJob
from rlhf_api.problems import Problem
from rlhf_operator.core.specs import stages_of, uris_of


def find_missing_claims(job: RLHFJob, claims: Mapping[str, Path]) -> list[Problem]:
    """Claims that the job names and nobody gave a directory for, or one that is not there."""
    wanted = {
        uri.removeprefix("pvc://").partition("/")[0]: uri
        for stage in stages_of(job.spec)
        for uri in uris_of(job.spec, stage)
        if uri.startswith("pvc://")
    }
    if job.spec.storage.existing_claim:
        wanted[job.spec.storage.existing_claim] = job.spec.storage.existing_claim
    found = []
    for claim, value in wanted.items():
        if claim not in claims:
            found.append(Problem("--claim", value, f"names claim {claim}, which is no directory yet: add --claim {claim}=DIR"))
        elif not claims[claim].is_dir():
            found.append(Problem("--claim", str(claims[claim]), f"is no directory, but claim {claim} stands for it: create it first"))
    return found
