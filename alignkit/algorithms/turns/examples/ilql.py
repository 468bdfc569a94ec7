"""ILQL by hand: two tokens of the policy with one of the environment between them, then two in a row at lambda 1."""

from math import log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # heads: Q1 Q2, their logsumexps, V.   The first token is paid -1 and what follows is worth 2 halved; the second 4
    # aims 0 and 4: Q errors 1 + 4 and 16 + 9;   V 1 -> min(3, 2), below by 1: 3/4;   V 2 -> min(1, 5), above by 1: 1/4
    # -log softmax: (3 - 1) + (3 - 2) and (2 - 0) + (1 - 1), halved
    WorkedExample(
        settings={"discount": 0.5, "expectile": 0.75, "cql_weight": 0.5},
        batch={
            "action_mask": ((True, False, True),),
            "reward": (3.0,),
            "rewards": ((-1.0, 0.0, 4.0),),
            "target_values": (
                (
                    (0.0, 0.0, 0.0, 0.0, 7.0),
                    (3.0, 2.0, 0.0, 0.0, 7.0),
                    (7.0, 7.0, 0.0, 0.0, 7.0),
                    (1.0, 5.0, 0.0, 0.0, 7.0),
                ),
            ),
        },
        outputs={
            "logprobs": ((log(1 / 2), 0.0, log(1 / 4)),),
            "values": (
                (
                    (0.0, 0.0, 0.0, 0.0, 1.0),
                    (1.0, 2.0, 3.0, 3.0, 9.0),
                    (9.0, 9.0, 9.0, 9.0, 2.0),
                    (0.0, 1.0, 2.0, 1.0, 9.0),
                ),
            ),
        },
        loss={"critic": (5 + 0.75 + 3 / 2 + 25 + 0.25 + 2 / 2) / 2, "policy": (log(2) + 2 * log(2)) / 2},
        metrics={"critic/return": 2.0, "critic/value": 1.5, "critic/q_error": 7.5, "critic/cql": 1.25},
    ),
    # MC returns: 8 is paid at the end, so the aims are 8 halved and 8, whatever V says; V -> the smaller slow Q
    # Q errors 0 + 1 and 0 + 4, V errors (4 - 3)^2 / 2 and (6 - 5)^2 / 2, -log softmax 2 + 1 and 0 + 1, a quarter of it
    WorkedExample(
        settings={"discount": 0.5, "q_lambda": 1.0, "expectile": 0.5, "cql_weight": 0.25},
        batch={
            "reward": (8.0,),
            "rewards": ((0.0, 8.0),),
            "target_values": (((0.0, 0.0, 0.0, 0.0, 2.0), (7.0, 4.0, 0.0, 0.0, 2.0), (6.0, 7.0, 0.0, 0.0, 2.0)),),
        },
        outputs={
            "logprobs": ((log(1 / 2), log(1 / 8)),),
            "values": (((0.0, 0.0, 0.0, 0.0, 3.0), (4.0, 5.0, 6.0, 6.0, 5.0), (8.0, 6.0, 8.0, 7.0, 9.0)),),
        },
        loss={"critic": (1 + 1 / 2 + 3 / 4 + 4 + 1 / 2 + 1 / 4) / 2, "policy": 2 * log(2)},
    ),
)
