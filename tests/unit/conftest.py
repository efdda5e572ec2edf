"""What holds for property tests: machines are shared, so that the time of an example says nothing.

Not in `tests/conftest.py`: where only links are tested, hypothesis is not installed.
"""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("peerbed", deadline=None)
settings.load_profile("peerbed")
