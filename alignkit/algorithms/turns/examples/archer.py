"""ArCHer by hand: after one state an utterance that was answered, paid 1, and a fresh one."""

from math import log

from alignkit.types.example import WorkedExample

NONE = (0.0, 0.0, 0.0, 0.0, 0.0)
STATE = (0.0, 0.0, 0.5, 0.25, 0.0)  # heads q1 q2 v1 v2 baseline: V(o)

EXAMPLES = (
    # Q(o, u) = 1 1 -> 1 + 1/2 (2 4) = 2 3;  V(o) = 1/2 1/4 -> Qb(o, u') = 3/2 1/2;  A = min(1 2) - min(1/2 1/4)
    WorkedExample(
        settings={"discount": 0.5},
        batch={
            "action_mask": ((True, False), (True,)),
            "reward": (1.0, 0.0),
            "target_values": ((NONE, NONE, (0.0, 0.0, 2.0, 4.0, 0.0)), (NONE, (1.5, 0.5, 0.0, 0.0, 0.0))),
        },
        outputs={
            "logprobs": ((log(1 / 2), 0.0), (log(1 / 4),)),
            "values": ((STATE, (1.0, 1.0, 0.0, 0.0, 0.0), NONE), (STATE, (1.0, 2.0, 0.0, 0.0, 0.0))),
        },
        advantages=(0.0, 0.75),
        loss={"policy": 0.75 * 2 * log(2), "critic": (1 - 2) ** 2 + (1 - 3) ** 2 + 1**2 + 0.25**2},
    ),
)
