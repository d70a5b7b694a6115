"""What holds for all tests of single modules."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes says more about the machine than about the code.
settings.register_profile("without deadline", settings(), deadline=None)
settings.load_profile("without deadline")
