"""CPL by hand: one pair, in which the rejected answer counts half, and one beside the reference."""

from math import log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # e^{S_w} = 1/2 1/3 = 1/6,  e^{bias S_l} = (1/4)^{1/2} = 1/2:  -log( 1/6 / (1/6 + 1/2) ) = log 4
    WorkedExample(
        settings={"scale": 1.0, "bias": 0.5},
        batch={"side": (1, -1)},
        outputs={"logprobs": ((log(1 / 2), log(1 / 3)), (log(1 / 4),))},
        loss={"policy": log(4)},
    ),
    # S = 1/2 of 2 log 2 and of -log 2:  -log sigmoid(1.5 log 2)
    WorkedExample(
        settings={"scale": 0.5, "bias": 1.0, "anchor": "reference"},
        batch={"side": (1, -1), "ref_logprobs": ((log(1 / 4), log(1 / 4)), (log(1 / 2),))},
        outputs={"logprobs": ((log(1 / 2), log(1 / 2)), (log(1 / 4),))},
        loss={"policy": log(1 + 2**-1.5)},
        metrics={"pairs/margin": 1.5 * log(2)},
        judged={"value": (log(2), -log(2) / 2)},
    ),
)
