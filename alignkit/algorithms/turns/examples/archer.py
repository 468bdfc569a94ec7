"""ArCHer by hand: after one state an utterance that was answered, paid 1, and a fresh one."""

from math import log

from alignkit.types.example import WorkedExample

NONE = (0.0, 0.0, 0.0, 0.0, 0.0)
STATE = (0.0, 0.0, 0.5, 0.25, 0.0)  # heads q1 q2 v1 v2 baseline: V(o)

PREFIX = (0.0, 0.0, 0.5, 0.25, 0.25)
FIRST, SECOND = (5 / 8) ** 2 + (3 / 4) ** 2, 1 + 1  # squared errors of the turns of the second example

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
    # two turns of the episode, paid 0 and 1, a slow V of 1/2 1/4 and 1/2 0 before them: deltas -1/4 -1/4 and 1/2 1
    # Q's targets are V + delta + 1/4 of the next delta = 3/8 1/4 and 1 1.   errors of Q = 1 1 and 2 0, as one turn
    # V(o) = 1/2 1/4 -> the smaller slow Q(o, u'), 1/2.   A = 1 - 1/4, less the baseline after each prefix, 1/4 and 1/2
    WorkedExample(
        settings={"discount": 0.5, "q_lambda": 0.5, "v_target": "min", "token_baseline": True},
        batch={
            "action_mask": ((True, False, True), (True, True)),
            "reward": (1.0, 0.0),
            "target_values": (
                ((0.0, 0.0, 0.5, 0.25, 0.0), NONE, (0.0, 0.0, 0.5, 0.0, 0.0), NONE),
                (NONE, NONE, (1.5, 0.5, 0.0, 0.0, 0.0)),
            ),
        },
        outputs={
            "logprobs": ((log(1 / 2), 0.0, log(1 / 2)), (log(1 / 2), log(1 / 4))),
            "values": (
                (PREFIX, (1.0, 1.0, 0.0, 0.0, 0.0), NONE, (2.0, 0.0, 0.0, 0.0, 0.0)),
                (PREFIX, (0.0, 0.0, 0.0, 0.0, 0.5), (1.0, 2.0, 0.0, 0.0, 0.0)),
            ),
        },
        advantages=(0.0, 0.75),
        loss={
            "policy": 1 / 2 * log(2) + 1 / 4 * 2 * log(2),
            "critic": (FIRST + SECOND) / 2 + 1 / 4**2 + (1 / 2**2 + 1 / 4**2) / 2,
        },
        metrics={
            "critic/q_error": (FIRST + SECOND) / 2 / 2 / 2,
            "critic/v_error": 1 / 4**2 / 2,
            "critic/value": 3 / 8,
        },
    ),
)
