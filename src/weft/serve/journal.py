"""The log of the service: one JSON object a line, with the id of the request. No header and no body is ever written."""

import logging
import sys
from datetime import UTC, datetime

import msgspec

FIELDS = "weft"

log = logging.getLogger("weft.serve")


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time, level, message, and the fields given to `tell`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": moment, "level": record.levelname.lower(), "message": record.getMessage()}
        line |= getattr(record, FIELDS, {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def tell(message: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: object) -> None:
    """Write a line; an error is written with its traceback."""
    log.log(level, message, extra={FIELDS: fields}, exc_info=error)


def start(level: str) -> None:
    """Send the service's log, and the server's, to the error stream."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("weft.serve", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level.upper())
