"""What only a card can say, in at most 8 minutes: `python -m benchmarks.gpu`; on the CPU, in small, in the tests."""
