"""All that one strict server knows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.servers.strict.messages import Call, RefusedError, S3Error
from tests.servers.strict.providers import Provider
from tests.servers.strict.store import Bucket


@dataclass
class State:
    """The buckets and the counters."""

    provider: Provider
    buckets: dict[str, Bucket] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    refusals: list[dict[str, Any]] = field(default_factory=list)

    def bucket(self, call: Call) -> Bucket:
        """Return the bucket a request names."""
        try:
            return self.buckets[call.bucket]
        except KeyError:
            raise S3Error(404, "NoSuchBucket", "The specified bucket does not exist.") from None

    def key(self, call: Call) -> str:
        """Return the name under which the request's key is kept."""
        return self.provider.identity(call.key)

    def note_refusal(self, call: Call, error: RefusedError) -> None:
        """Remember that a client broke a rule."""
        named = {"method": call.method, "path": call.target, "operation": call.operation}
        self.refusals.append({**named, "status": error.status, "code": error.code, "reason": str(error)})

    def report(self) -> dict[str, Any]:
        """Return the counters for the control endpoint."""
        buckets = self.buckets.values()
        return {
            "requests": dict(self.requests),
            "refusals": self.refusals,
            "unavailable": self.provider.unavailable,
            "bytes_stored": sum(bucket.bytes_stored for bucket in buckets),
            "open_uploads": sum(len(bucket.uploads) for bucket in buckets),
        }

    def reset(self) -> None:
        """Empty every bucket and set all counters to zero."""
        self.buckets = {name: Bucket() for name in self.buckets}
        self.requests.clear()
        self.refusals.clear()
        self.provider.reset()
