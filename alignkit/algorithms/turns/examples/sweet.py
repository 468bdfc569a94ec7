"""SWEET-RL's policy by hand: of three utterances after one state the best and the worst, and a state without a pair."""

from math import log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # chosen: the third, D = log 2 of two tokens;  rejected: the second, D = -log 4:  -log sigmoid(1/2 log 8)
    # by the chosen's log-probs -1/2 sigmoid(-1/2 log 8) = -1/2 / (1 + 8^(1/2));  the first is in no pair
    WorkedExample(
        settings={"beta": 0.5},
        batch={
            "group": (0, 0, 0, 1, 1),
            "reward": (0.1, -0.3, 0.2, 1.0, 1.0),
            "ref_logprobs": ((log(1 / 2),), (log(1 / 2),), (log(1 / 2), log(1 / 4)), (log(1 / 2),), (log(1 / 2),)),
        },
        outputs={"logprobs": ((log(1 / 4),), (log(1 / 8),), (log(1 / 2), log(1 / 2)), (log(1 / 4),), (log(1 / 8),))},
        loss={"policy": log(1 + 8 ** (-1 / 2))},
        metrics={"pairs/accuracy": 1.0, "pairs/margin": log(8) / 2},
    ),
)
