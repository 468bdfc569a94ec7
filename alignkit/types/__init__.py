"""The data that flows through a run. Plain frozen dataclasses; torch appears only in `batch`."""
