"""Checksums of what a container holds: one for every tensor and small file, and of the manifest.

They are XXH3 with 64 bits, as 16 hexadecimal digits: fast enough to be looked at whenever a tensor
is read. They find damage, not intent: whoever can write a container can write its checksums. Does
not compare them; see `container.reading` and `container.small_files`.
"""

import json
from typing import Any

from xxhash import xxh3_64

PATTERN = r"^[0-9a-f]{16}$"
Digest = xxh3_64  # takes bytes by `update`, gives `hexdigest`


def of_bytes(data: Any) -> str:
    """Returns the checksum of bytes, or of anything with a contiguous buffer."""
    return xxh3_64(data).hexdigest()


def of_json(value: Any) -> str:
    """Returns the checksum of a JSON value, whatever the order of its keys and its white space."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return of_bytes(text.encode())
