"""GiGPO by hand: two episodes of a task whose second turns answer the same, one of them twice."""

from math import log, sqrt

from alignkit.types.example import WorkedExample

EPS = 1e-4
# of two numbers one apart: each lies 1/2 from the mean, the deviation with the n-1 divisor is sqrt(1/2)
UP = (1 / 2) / (sqrt(1 / 2) + EPS)

EXAMPLES = (
    # the test harness lays one and the same token ahead of each completion: both first turns met one state
    # returns 1 and 0, which the first turns share halved by discount 1/2 where they pay at the second
    # G: first turns 1/2 and 0, one apart half; second turns answer token 4 both: 1 and 0
    WorkedExample(
        settings={"discount": 0.5},
        batch={
            "action_mask": ((True, False, True), (True, False, True)),
            "tokens": ((7, 4, 7), (7, 4, 7)),
            "reward": (1.0, 0.0),
            "old_logprobs": ((log(1 / 2), 0.0, log(1 / 4)), (log(1 / 2), 0.0, log(1 / 2))),
        },
        outputs={"logprobs": ((log(1 / 2), 0.0, log(1 / 2)), (log(1 / 2), 0.0, log(1 / 2)))},
        advantages=(
            (UP + (1 / 4) / (sqrt(1 / 8) + EPS), 2 * UP),
            (-UP - (1 / 4) / (sqrt(1 / 8) + EPS), -2 * UP),
        ),
        loss={"policy": (-1.2 * 2 * UP + 2 * UP) / 4},
    ),
    # without scale: 1 - 0 for the episodes; first turns 1 - 0; the second turns answer 4 and 5 and stand alone
    WorkedExample(
        settings={"discount": 1.0, "scale": "none", "step_weight": 0.5},
        batch={
            "action_mask": ((True, False, True), (True, False, True)),
            "tokens": ((7, 4, 7), (7, 5, 7)),
            "reward": (1.0, 0.0),
            "old_logprobs": ((log(1 / 2), 0.0, log(1 / 2)), (log(1 / 2), 0.0, log(1 / 4))),
        },
        outputs={"logprobs": ((log(1 / 2), 0.0, log(1 / 2)), (log(1 / 4), 0.0, log(1 / 4)))},
        advantages=((3 / 2, 1.0), (-3 / 2, -1.0)),
        loss={"policy": (-3 / 2 - 1 + 0.8 * 3 / 2 + 1) / 4},
    ),
)
