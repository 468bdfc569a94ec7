"""SPPO by hand: two completions, of which the first beats the second three times out of four."""

from math import log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # P = 3/4 and 1/4, eta (P - 1/2) = 1 and -1;  D = log 2 and 0
    WorkedExample(
        settings={"eta": 4.0},
        batch={"reward": (log(3), 0.0), "old_logprobs": ((log(1 / 2), log(1 / 4)), (log(1 / 2),))},
        outputs={"logprobs": ((log(1 / 2), log(1 / 2)), (log(1 / 2),))},
        loss={"policy": ((log(2) - 1) ** 2 + (0 + 1) ** 2) / 2},
    ),
    # P = 3/4 and 1/4, eta (P - 1/2) = 5/2 and -5/2;  D = 0 at the first update, its slope is that of both tokens
    # of the third no token was chosen: it does not count
    WorkedExample(
        batch={
            "group": (0, 0, 1),
            "reward": (log(3), 0.0, 0.0),
            "action_mask": ((True, True), (True,), (False,)),
            "sampler_logprobs": ((log(1 / 4), log(1 / 4)), (log(1 / 2),), (0.0,)),
        },
        outputs={"logprobs": ((log(1 / 2), log(1 / 4)), (log(1 / 2),), (0.0,))},
        loss={"policy": 2.5**2},
        gradient={"logprobs": ((-2.5, -2.5), (2.5,), (0.0,))},
        metrics={"policy/kl_sampler": -log(2) / 3},
    ),
)
