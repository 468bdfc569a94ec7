"""Shapes and dtypes of the pure functions, the batch and the attention are checked at every call in every test."""

from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

from tests import shapes

CHECKED = ["alignkit.ops", "alignkit.types.batch", "alignkit.models.attention"]
install_import_hook(CHECKED, f"{shapes.__name__}.{shapes.check.__name__}")

# a busy machine is no failure: properties have no deadline
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
