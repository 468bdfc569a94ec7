"""alignkit: LLM post-training from one YAML recipe. Importing it is quick and has no effects."""

__version__ = "0.1.0"
