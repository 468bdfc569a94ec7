"""The shelf: recipes, reward_models, evals and launch profiles, wherever this installation keeps them.

In a checkout (and an editable install of it) the folders lie at the repository root; in a wheel, beside this file.
"""

from pathlib import Path

_checkout = Path(__file__).resolve().parents[2]
if (_checkout / "pyproject.toml").is_file() and (_checkout / "recipes").is_dir():
    __path__ = [str(_checkout)]

ROOT = Path(__path__[0])
