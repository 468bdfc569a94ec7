"""A language model judges: rubric scores or comparisons in both orders, from any OpenAI-compatible server.

Options: `url`, `model`, `mode` (rubric, pairwise), `rubric`, `form` (json, regex, line) and those of
alignkit/rewards/judge/judge.py. The key comes from the environment (ALIGNKIT_JUDGE_KEY, or the variable that `key_env`
names).
A verdict that cannot be read is no score, and its share is the part `judge.unparsed`.
"""

from alignkit.rewards.judge.judge import JudgeReward

judge = JudgeReward
SECRETS = ("ALIGNKIT_JUDGE_KEY",)
