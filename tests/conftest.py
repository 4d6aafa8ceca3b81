"""Settings shared by every test: one thread, a fixed seed, quick or thorough hypothesis profiles."""

import gc
import os
import tempfile
from collections.abc import Iterator

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


def pytest_collection_finish() -> None:
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _what_is_kept_is_collected_once() -> Iterator[None]:
    """Captured programs stay until the end: no later collection of garbage goes through them again."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)
