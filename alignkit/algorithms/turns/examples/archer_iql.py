"""ArCHer's offline variant by hand: an utterance that ends its episode, paid 1, and one that is answered, paid 0."""

from math import exp, log

from alignkit.types.example import WorkedExample

NONE = (0.0, 0.0, 0.0, 0.0)

EXAMPLES = (
    # Q = 1/2 1 -> 1 1;  V = 0 1/2 -> Qb = 1 1/4, above by 1 and below by 1/4, which weigh 3/4 and 1/4
    # Q = 1 1 -> 1/2 (2 4) = 1 2;  V = 0 0 -> Qb = 0 0.   A = 1/2 - 0 and 1 - 0
    WorkedExample(
        settings={"discount": 0.5, "expectile": 0.75, "sharpness": 2.0},
        batch={
            "group": (0, 1),
            "action_mask": ((True,), (True, False)),
            "reward": (1.0, 0.0),
            "target_values": ((NONE, (1.0, 0.25, 0.0, 0.0)), (NONE, NONE, (0.0, 0.0, 2.0, 4.0))),
        },
        outputs={
            "logprobs": ((log(1 / 4),), (log(1 / 2), 0.0)),
            "values": (((0.0, 0.0, 0.0, 0.5), (0.5, 1.0, 0.0, 0.0)), (NONE, (1.0, 1.0, 0.0, 0.0), NONE)),
        },
        advantages=(0.5, 1.0),
        loss={
            "policy": (exp(2 * 0.5) * 2 * log(2) + exp(2 * 1.0) * log(2)) / 2,
            "critic": (0.5**2 + 0.75 * 1**2 + 0.25 * 0.25**2 + (1 - 2) ** 2) / 2,
        },
    ),
    # A = 3/2 - 1/2 = 1, e^{5 A} counts as 100
    # Q = 2 3/2 -> 1 + 1/2 (2 4) = 2 3;  V = 1/2 1 -> Qb = 1 1/2, which weigh 9/10 and 1/10
    WorkedExample(
        settings={"discount": 0.5, "sharpness": 5.0},
        batch={
            "action_mask": ((True, True, False),),
            "reward": (1.0,),
            "target_values": ((NONE, NONE, (1.0, 0.5, 0.0, 0.0), (0.0, 0.0, 2.0, 4.0)),),
        },
        outputs={
            "logprobs": ((log(1 / 2), log(1 / 4), 0.0),),
            "values": (((0.0, 0.0, 0.5, 1.0), NONE, (2.0, 1.5, 0.0, 0.0), NONE),),
        },
        advantages=(1.0,),
        loss={"policy": 100 * 3 * log(2), "critic": (3 / 2) ** 2 + 0.9 / 2**2 + 0.1 / 2**2},
    ),
)
