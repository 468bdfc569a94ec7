"""Which process sends which box to which: pure, the same on every process."""
