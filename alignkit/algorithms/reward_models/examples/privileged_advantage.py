"""SWEET-RL's advantage model by hand: an episode of two utterances against one of one."""

from math import log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # A of the first: (log 2 + 0) / 2 and log 2;  of the second: -log 2, the mean of two tokens
    # beta (3/2 log 2 + log 2) = 5/4 log 2: -log sigmoid
    WorkedExample(
        settings={"beta": 0.5},
        batch={
            "side": (1, -1),
            "action_mask": ((True, True, False, True), (True, True)),
            "ref_logprobs": ((log(1 / 4), log(1 / 2), 0.0, log(1 / 4)), (log(1 / 2), log(1 / 2))),
        },
        outputs={"logprobs": ((log(1 / 2), log(1 / 2), 0.0, log(1 / 2)), (log(1 / 8), log(1 / 2)))},
        loss={"reward": log(1 + 2 ** (-5 / 4))},
        judged={"value": (3 / 2 * log(2), -log(2))},
        metrics={"pairs/accuracy": 1.0, "pairs/margin": 5 / 4 * log(2)},
    ),
)
