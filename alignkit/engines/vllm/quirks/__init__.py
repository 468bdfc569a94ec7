"""What vLLM 0.32 does otherwise than transformers, one kind a file; docs/models.md has the table."""
