"""Fingerprints of plain values."""

import hashlib
import json
from typing import Any


def fingerprint(content: Any) -> str:
    """sha256 of a JSON-able value, keys sorted."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
