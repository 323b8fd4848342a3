"""Hypothesis: loaded before any test runs, and its examples drawn alike each time unless a run is there to explore.

Its pytest plugin is else imported in the terminal summary, where CPython 3.11.7 can fail with "AST constructor recursion depth
mismatch" after a long run; seen when only tests without hypothesis were chosen.

A commit is judged by the same examples each time; `HYPOTHESIS_PROFILE=explore`, as `make test-slow` sets it, seeks
new ones.
"""

import atexit
import os
import shutil
import tempfile

import hypothesis
import pytest

import splitvlm  # before any test imports gRPC
from tests.fork_client import start_server
from tests.made_once import VARIABLE as SHARED

hypothesis.settings.register_profile("steady", derandomize=True, deadline=None)  # no test asserts time
hypothesis.settings.register_profile("explore", max_examples=1_000, deadline=None, print_blob=True)
# What is measured and learned is for this run alone. Its processes share measured times, which files keep whole, and what
# tests/made_once.py makes; what one of them has learned about a model is for its own tests only.
for variable, is_shared in (("SPLITVLM_CACHE", True), ("SPLITVLM_BUNDLES", False), (SHARED, True)):
    if not is_shared or "PYTEST_XDIST_WORKER" not in os.environ:
        os.environ[variable] = tempfile.mkdtemp(prefix="splitvlm-tests-")
        atexit.register(shutil.rmtree, os.environ[variable], ignore_errors=True)

assert splitvlm.TLS_1_2_IS_OFF
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


def pytest_configure(config: pytest.Config) -> None:
    """Starts one fork server for all processes that share the tests. A process that is alone starts it when it needs it."""
    if config.getoption("numprocesses", None):
        start_server()
