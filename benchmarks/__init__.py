"""The performance harness: interleaved A/B measurements with a correctness gate. See README.md, which it writes."""
