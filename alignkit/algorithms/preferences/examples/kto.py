"""KTO by hand: a good and a bad answer, each beside one to another prompt."""

from math import log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # z = mean of D = 0 and D = 2 log 2 of the other answers = log 2
    # good, D = 2 log 2: 1 - sigmoid(log 2) = 1/3;  bad, D = -log 2: 2 (1 - sigmoid(2 log 2)) = 2/5
    WorkedExample(
        settings={"beta": 1.0, "undesirable_weight": 2.0},
        batch={
            "group": (0, 0, 1, 1),
            "side": (1, 0, -1, 0),
            "ref_logprobs": ((log(1 / 8),), (log(1 / 2),), (log(1 / 2),), (log(1 / 8),)),
        },
        outputs={"logprobs": ((log(1 / 2),), (log(1 / 2),), (log(1 / 4),), (log(1 / 2),))},
        loss={"policy": (1 / 3 + 2 / 5) / 2},
    ),
    # z = 0 whatever the second says.   D = log 2 and -log 2: 3 (1 - sigmoid(2 log 2)) and half of the same
    WorkedExample(
        settings={"beta": 2.0, "desirable_weight": 3.0, "undesirable_weight": 0.5, "reference_point": "zero"},
        batch={
            "group": (0, 0, 1),
            "side": (1, 0, -1),
            "ref_logprobs": ((log(1 / 4),), (log(1 / 8),), (log(1 / 2),)),
        },
        outputs={"logprobs": ((log(1 / 2),), (log(1 / 2),), (log(1 / 4),))},
        loss={"policy": (3 / 5 + 0.5 / 5) / 2},
    ),
    # mean of D = -log 2 of the other answer, so z = 0;  D = log 2
    WorkedExample(
        settings={"beta": 1.0},
        batch={"side": (1, 0), "ref_logprobs": ((log(1 / 4),), (log(1 / 2),))},
        outputs={"logprobs": ((log(1 / 2),), (log(1 / 4),))},
        loss={"policy": 1 / 3},
    ),
    # z = D of the other answer = 2 log 2, D = 4 log 2: 1 - sigmoid(log 2)
    WorkedExample(
        settings={"beta": 0.5},
        batch={"side": (1, 0), "ref_logprobs": ((log(1 / 32),), (log(1 / 8),))},
        outputs={"logprobs": ((log(1 / 2),), (log(1 / 2),))},
        loss={"policy": 1 / 3},
        metrics={"pairs/zero_point": log(2), "pairs/reward_chosen": 2 * log(2)},
    ),
)
