"""An answer of pod 0's progress endpoint: untrusted bytes in, a document of the attempt that was asked out, or None.

A pod may answer anything. What is not a progress document of this attempt counts as no answer; nothing in it decides more than figures.
"""

import json

from pydantic import ValidationError

from rlhf_api.outcome import MAX_PROGRESS_BYTES, ProgressDocument


def parse(answer: bytes, job_uid: str, stage: str, attempt: int) -> ProgressDocument | None:
    """The document, if it is one and speaks of this attempt."""
    if len(answer) > MAX_PROGRESS_BYTES:
        return None
    try:
        document = ProgressDocument.model_validate(json.loads(answer), by_name=False, by_alias=True)
    except (ValueError, RecursionError, ValidationError):
        return None
    return document if (document.job_uid, document.stage, document.attempt) == (job_uid, stage, attempt) else None
