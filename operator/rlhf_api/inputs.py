"""Where data and models come from: the uris a user writes, pinned so that what was reviewed is what trains."""

from typing import Literal

from pydantic import Field

from rlhf_api.base import ApiModel, ObjectName, Revision, Sha256, StageName, Uri

DatasetFormat = Literal["auto", "instruction", "messages", "preference", "prompts", "alpaca"]


class Pinned(ApiModel):
    """Something to fetch, and what proves that it is the right thing."""

    uri: Uri = Field(
        description="hf://org/name, s3://bucket/path, gs://bucket/path, oci://registry/repo@sha256:digest, https://host/file, "
        "pvc://claim/path or builtin://kind/name."
    )
    revision: Revision | None = Field(None, description="Commit id, 40 hex digits; required for hf://, not used elsewhere.")
    sha256: Sha256 | None = Field(
        None,
        description="Expected digest: of the bytes for one file, of the sorted `sha256sum` lines for a directory. Required for https://.",
    )
    secret_name: ObjectName | None = Field(
        None, description="Secret in the namespace of the job with the credentials; it must carry the label rlhf.dev/use=true."
    )

    @property
    def scheme(self) -> str:
        """What stands before `://`; empty when nothing does."""
        scheme, separator, _ = self.uri.partition("://")
        return scheme if separator else ""


class Source(Pinned):
    """A model directory: weights, configuration and tokenizer."""


SPLIT = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Pattern of a split: a plain name, which Prepare makes a file name of."""


class Dataset(Pinned):
    """Rows: one file, or a directory with one file or folder per split."""

    format: DatasetFormat = Field(
        "auto", description="Row format; auto detects it from the field names of the first rows and fails when rows differ."
    )
    # Prepare makes a file name of it: with a '/' or a leading '.' it would lead out of what the profile allows and `sha256` pins.
    split: str = Field(
        "train",
        max_length=63,
        min_length=1,
        pattern=SPLIT,
        description="Split or file stem to read; a folder on the way to it belongs in uri.",
    )


class ModelInput(ApiModel):
    """Exactly one of `stage` and `source`."""

    stage: StageName | None = Field(None, description="An earlier stage of this job.")
    source: Source | None = Field(None, description="A model from outside.")
