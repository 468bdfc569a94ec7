"""Shapes and dtypes of the pure functions, the batch and the attention are checked at every call in every test."""

from jaxtyping import install_import_hook

from tests import shapes

CHECKED = ["alignkit.ops", "alignkit.types.batch", "alignkit.models.attention"]
install_import_hook(CHECKED, f"{shapes.__name__}.{shapes.check.__name__}")
