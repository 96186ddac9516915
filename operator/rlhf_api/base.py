"""The ground every API model stands on: camelCase on the wire, snake_case in Python, frozen, closed, finite.

Wire documents (dicts as JSON has them) flow in through `from_wire` and out through `to_wire`; bytes that are hashed or stored flow
out through `to_bytes`. Scalars are strict, because pydantic would otherwise read the text "2e-5" as a number and kubectl would not.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import AllowInfNan, AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer, StringConstraints
from pydantic.alias_generators import to_camel
from pydantic.types import Strict

Wire = dict[str, Any]
"""A document as JSON has it: camelCase keys; strings, numbers, booleans, lists and dicts."""


class ApiModel(BaseModel):
    """A part of the contract. Frozen; unknown fields are refused; Python names and wire names are both accepted."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=False,
        protected_namespaces=(),
    )

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Self:
        """The model of a wire document.

        Raises:
            pydantic.ValidationError: something is wrong. `validate.find_problems` says the same in the words of the API.
        """
        return cls.model_validate(wire, by_alias=True, by_name=False)

    def to_wire(self) -> Wire:
        """The wire document, complete with defaults. What is unset is left out: the API has no null."""
        wire: Wire = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return wire

    def to_bytes(self) -> bytes:
        """The wire document as canonical JSON: equal models give equal bytes, so the bytes can be hashed."""
        return canonical_json(self.to_wire())


class ObservedModel(ApiModel):
    """A part that a program wrote, perhaps a newer one: unknown fields are dropped, not refused."""

    model_config = ConfigDict(extra="ignore")


def canonical_json(document: object) -> bytes:
    """JSON with sorted keys and without spaces, in UTF-8.

    Raises:
        ValueError: the document holds NaN or an infinity, which JSON does not have.
    """
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_hex(data: bytes) -> str:
    """The sha256 of bytes as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def digest(data: bytes) -> str:
    """The digest of bytes as the API writes it: `sha256:<64 hex digits>`."""
    return f"sha256:{sha256_hex(data)}"


def is_empty(value: object) -> bool:
    """True for what is left off the wire: an empty list or map in a field that has no default there."""
    return not value


def _in_whole_seconds(moment: datetime) -> str:
    """RFC 3339 in UTC. Kubernetes' own times have whole seconds, so ours compare with them."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Bool = Annotated[bool, Strict()]
Int = Annotated[int, Strict()]
Number = Annotated[float, Strict(), AllowInfNan(False)]  # an integer is fine where a number is expected
Timestamp = Annotated[AwareDatetime, PlainSerializer(_in_whole_seconds, return_type=str, when_used="json")]

NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
OBJECT_NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"

JobName = Annotated[str, StringConstraints(min_length=1, max_length=36, pattern=NAME_PATTERN)]
StageName = Annotated[str, StringConstraints(min_length=1, max_length=15, pattern=NAME_PATTERN)]
ObjectName = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=OBJECT_NAME_PATTERN)]
"""Name of a Kubernetes object that a field refers to."""
ModelSize = Annotated[str, StringConstraints(max_length=12, pattern=r"^[0-9]+(\.[0-9]+)?[MB]$")]
ByteQuantity = Annotated[str, StringConstraints(max_length=16, pattern=r"^[1-9][0-9]*(Mi|Gi|Ti|Pi)$")]
CpuQuantity = Annotated[str, StringConstraints(max_length=16, pattern=r"^[1-9][0-9]*m?$")]
Revision = Annotated[str, StringConstraints(max_length=40, pattern=r"^[0-9a-f]{40}$")]
Sha256 = Annotated[str, StringConstraints(max_length=64, pattern=r"^[0-9a-f]{64}$")]
Digest = Annotated[str, StringConstraints(max_length=71, pattern=r"^sha256:[0-9a-f]{64}$")]
Token = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._:-]+$")]
Uri = Annotated[str, StringConstraints(max_length=512)]
NodeLabel = Annotated[str, StringConstraints(min_length=1, max_length=253)]
RelativePath = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^[^/].*$")]
"""Path below the `root` of run.json."""
LearningRate = Annotated[Number, Field(gt=0, le=1)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
