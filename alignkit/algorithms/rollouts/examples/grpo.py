"""GRPO by hand, as in its paper (a mean over completions, KL in the loss): two completions, paid 1 and 0."""

from math import log, sqrt

from alignkit.types.example import WorkedExample

A = 0.5 / (sqrt(1 / 2) + 1e-4)  # rewards 1/2 from their mean, squares 1/4 + 1/4 over n - 1 = 1

EXAMPLES = (
    # ratio 3/2 clips to 1.2;  ratio 1, drawn with 1/3 instead of 1/2, weighs 3/2;  ratio 1/2 of A < 0 clips to 0.8
    # k3 is 0 but for the last token, d = log(1/4 : 1/2): e^{-d} - 1 + d = 1 - log 2
    WorkedExample(
        settings={"loss": {"aggregate": "sequence_mean_token_mean", "kl": "loss", "kl_weight": 0.5}},
        batch={
            "reward": (1.0, 0.0),
            "sampler_logprobs": ((log(1 / 2), log(1 / 3)), (log(1 / 2),)),
            "old_logprobs": ((log(1 / 2), log(1 / 2)), (log(1 / 2),)),
            "ref_logprobs": ((log(3 / 4), log(1 / 2)), (log(1 / 2),)),
        },
        outputs={"logprobs": ((log(3 / 4), log(1 / 2)), (log(1 / 4),))},
        advantages=(A, -A),
        loss={"policy": ((-1.2 * A - 1.5 * A) / 2 + (0.8 * A + 0.5 * (1 - log(2)))) / 2},
    ),
)
