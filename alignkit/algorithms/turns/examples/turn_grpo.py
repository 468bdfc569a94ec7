"""GRPO by turns by hand: three rollouts of a task, of two turns and one."""

from math import log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # returns 3, 1 and 0 less the mean of the others: 3 - 1/2, 1 - 3/2, 0 - 2;  all is paid at the last turn
    # first turns: G is 3/2 1 0 with the discount 1/2: 3/2 - 1/2, 1 - 3/4, 0 - 5/4;  the second turn stands
    # alone and keeps 5/2.  A = 1/4 of the returns' and 3/4 of the turns'
    WorkedExample(
        settings={"turn_weight": 0.75, "discount": 0.5, "scale": "none"},
        batch={
            "action_mask": ((True, False, True), (True,), (True,)),
            "reward": (3.0, 1.0, 0.0),
            "old_logprobs": ((log(1 / 2), 0.0, log(1 / 2)), (log(1 / 2),), (log(1 / 2),)),
        },
        outputs={"logprobs": ((log(1 / 2), 0.0, log(3 / 4)), (log(1 / 2),), (log(1 / 4),))},
        advantages=((11 / 8, 5 / 2), 1 / 16, -23 / 16),
        # ratios 1, 3/2 (counts as 1.2), 1, 1/2 (counts as 0.8)
        loss={"policy": (-11 / 8 - 1.2 * 5 / 2 - 1 / 16 + 0.8 * 23 / 16) / 4},
    ),
)
