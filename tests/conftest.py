"""Shapes and dtypes of pure functions, algorithms, batch and attention are checked at every call in every test."""

from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

from tests import shapes

CHECKED = ["alignkit.ops", "alignkit.types.batch", "alignkit.models.attention"]
ALGORITHMS = [f"alignkit.algorithms.{room}" for room in ("rollouts", "preferences", "reward_models", "turns", "sft")]
install_import_hook(ALGORITHMS, f"{shapes.__name__}.{shapes.check_algorithm.__name__}")
install_import_hook(CHECKED, f"{shapes.__name__}.{shapes.check.__name__}")

# a busy machine is no failure: properties have no deadline; and tests repeat the same examples, so that a change, not
# chance, makes them fail. `make fuzz` draws new examples, many more of them.
settings.register_profile(
    "repeatable", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True, database=None
)
settings.register_profile(
    "exploring", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=False, max_examples=2000
)
settings.load_profile("repeatable")
