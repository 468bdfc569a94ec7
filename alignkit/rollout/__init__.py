"""Rollout engines: vLLM and the transformers reference, behind one protocol."""
