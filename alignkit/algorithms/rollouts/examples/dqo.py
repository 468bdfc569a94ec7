"""DQO by hand: one completion of two tokens, paid 1 at its end; V = 1/4, then 1/2."""

from math import log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # Q - V = 0 + 1/2 - 1/4 and 1 - 1/2;  log-ratios log 2 and -log 2, halved
    # soft rewards -log(2) / 2 and 1, so G = 1 - log(2) / 2 and 1
    WorkedExample(
        settings={"beta": 0.5},
        batch={
            "reward": (1.0,),
            "old_logprobs": ((log(1 / 2), log(1 / 2)),),
            "ref_logprobs": ((log(1 / 4), log(1 / 2)),),
        },
        outputs={"logprobs": ((log(1 / 2), log(1 / 4)),), "values": ((0.25, 0.5, 0.0),)},
        advantages=((0.25, 0.5),),
        loss={
            "policy": ((0.5 * log(2) - 0.25) ** 2 + (-0.5 * log(2) - 0.5) ** 2) / 2,
            "critic": ((0.25 - (1 - 0.5 * log(2))) ** 2 / 2 + (0.5 - 1) ** 2 / 2) / 2,
        },
    ),
)
