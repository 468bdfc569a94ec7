"""What vLLM 0.32 does otherwise than transformers, one file each; every one has a test that fails once vLLM changes."""
