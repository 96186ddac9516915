"""The log: one JSON object a line on standard error. Records of `logging` in, lines out.

Extra fields of a record (`job`, `uid`, `stage`, `attempt`, `reconcile_id`, `duration_ms`, evidence of a decision) become keys of the line.
No manifests, no secrets, and no text of a pod beyond 300 characters.
"""

import json
import logging
import sys
from datetime import UTC, datetime

MAX_TEXT = 300
_FIELDS = ("job", "uid", "stage", "attempt", "reconcile_id", "duration_ms", "outcome", "culprit", "exit_code", "reason")


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without a line break."""
        line: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "msg": record.getMessage(),
            "logger": record.name,
        }
        for field in _FIELDS:
            value = getattr(record, field, None)
            if value is not None:
                line[field] = value[:MAX_TEXT] if isinstance(value, str) else value
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(level: str) -> None:
    """Send everything to standard error. Kopf and the HTTP client speak only when something is wrong: their news are our news."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("kopf", "aiohttp", "asyncio", "kubernetes"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
