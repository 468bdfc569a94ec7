"""What a run imports when it comes to it, for the server that forks runs: 6 s of CPU that each of them is spared."""

import importlib

NAMES = (
    *("alignkit.cli.main", "alignkit.run.train.train", "tests.resume.forked"),
    *("ruamel.yaml", "pyarrow.parquet", "transformers.models.auto.tokenization_auto"),
    *("transformers.models.llama.modeling_llama", "deepspeed"),  # accelerate asks it of every model that is saved
)
for name in NAMES:
    importlib.import_module(name)
