"""Profiles of hypothesis: `HYPOTHESIS_PROFILE` is fuzz for `make fuzz`, quick for `make test-quick`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("default", max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", parent=settings.get_profile("default"), max_examples=50)
settings.register_profile("fuzz", parent=settings.get_profile("default"), max_examples=100_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
