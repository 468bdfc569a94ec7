"""What a reward served by `alignkit serve` says: another process or machine, reached over HTTP with a token.

Options: `url` and those of alignkit/rewards/serve/remote.py (retries, deadline, concurrency, cache). The token comes
from the environment (ALIGNKIT_TOKEN, or the variable that `token_env` names). What could not be asked is unscorable,
never 0.
"""

from alignkit.rewards.serve.remote import RemoteReward

remote = RemoteReward
SECRETS = ("ALIGNKIT_TOKEN",)
