"""The answer to a request that is refused, in the form that OpenAI's clients read.

Does not decide what is refused; see `serving.bodies`, `serving.gate` and `serving.limits`.
"""

from typing import Any

_TYPES = {404: "not_found_error", 500: "server_error", 503: "server_error"}


class Refused(Exception):
    """A request that is not served. Its message is one line that says what to do."""

    def __init__(self, status: int, message: str) -> None:
        # transformers writes it between quotes into a stream, without escaping it.
        self.message = " ".join(message.replace('"', "'").replace("\\", "/").split())
        super().__init__(self.message)
        self.status = status

    def body(self) -> dict[str, Any]:
        """Returns the JSON that is answered."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "code": self.status}}
