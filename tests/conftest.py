"""Shapes and dtypes of the pure functions, the batch and the attention are checked at every call in every test."""

from jaxtyping import install_import_hook

install_import_hook(["alignkit.ops", "alignkit.types.batch", "alignkit.models.attention"], "beartype.beartype")
