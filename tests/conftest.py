"""Settings shared by every test: one thread, a fixed seed, quick or thorough hypothesis profiles."""

import os
import tempfile

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "default",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    max_examples=25,
)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=200, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

torch.set_num_threads(1)

# What tests leave in a cache is theirs; it goes when they end.
_cache = tempfile.TemporaryDirectory(prefix="mlgraph-cache-")
os.environ["MLGRAPH_CACHE"] = _cache.name


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)
