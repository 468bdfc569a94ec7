"""REINFORCE by hand: a completion of two tokens, paid 1 at its end, and one of one token, paid 0."""

from math import log

from alignkit.types.example import WorkedExample

B = (1 - log(2) / 2) / 2  # mean over the batch of what a completion is paid

EXAMPLES = (
    # r = -log(2) / 2 and 1;  0.   G = -log(2) / 2 + 1/2 and 1;  0.   -l = 1 and 2 log 2;  log 2
    WorkedExample(
        settings={"discount": 0.5, "kl_weight": 0.5},
        batch={"reward": (1.0, 0.0), "ref_logprobs": ((log(1 / 4), log(1 / 4)), (log(1 / 2),))},
        outputs={"logprobs": ((log(1 / 2), log(1 / 4)), (log(1 / 2),))},
        advantages=((1 / 2 - log(2) / 2 - B, 1 - B), -B),
        loss={"policy": ((1 / 2 - log(2) / 2 - B) * log(2) + (1 - B) * 2 * log(2) - B * log(2)) / 2},
    ),
)
