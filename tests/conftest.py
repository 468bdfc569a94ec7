"""Shapes and dtypes of pure functions, algorithms, batch and attention are checked; no test asks the hub."""

import os
from collections.abc import Generator

# read when its library is first imported: what is not in the cache is then an error at once, not after 20 s of trying
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

from tests import shapes, tiers

CHECKED = ["alignkit.ops", "alignkit.types.batch", "alignkit.models.attention"]
ALGORITHMS = [f"alignkit.algorithms.{room}" for room in ("rollouts", "preferences", "reward_models", "turns", "sft")]
install_import_hook(ALGORITHMS, f"{shapes.__name__}.{shapes.check_algorithm.__name__}")
install_import_hook(CHECKED, f"{shapes.__name__}.{shapes.check.__name__}")

# a busy machine is no failure: properties have no deadline; and the same tests try the same examples, so that a change,
# not chance, makes them fail. `make fuzz` draws new examples, many more of them.
settings.register_profile(
    "repeatable", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True, database=None
)
settings.register_profile(
    "exploring", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=False, max_examples=2000
)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what `make test` leaves to CI and which slow tests CI leaves out, before pytest selects by marks."""
    everything = config.args == config.getini("testpaths")
    slow = [item for item in items if item.get_closest_marker("slow")]
    fast = [item for item in items if not item.get_closest_marker("slow")]
    for among, file, mark in ((fast, tiers.CI, pytest.mark.ci), (slow, tiers.RELEASE, pytest.mark.release)):
        table = tiers.read(file)
        for item in among:
            if tiers.is_left_out(item.nodeid, table):
                item.add_marker(mark)
        if everything and (lost := tiers.without_a_test([item.nodeid for item in among], table)):
            raise pytest.UsageError(
                f"tests/{file.name} names no test with {lost}, or one whose own mark says otherwise: "
                "write what they are called now, or take the lines away"
            )


@pytest.fixture(autouse=True, scope="session")
def _nobody_pulls_the_plug() -> Generator[None]:
    """What was written need not reach the disk before the next step: a process that is killed loses none of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", os.fstat)  # which says no to a closed file, too
        yield


@pytest.fixture(autouse=True)
def _shapes_are_checked() -> None:
    shapes.begin()
