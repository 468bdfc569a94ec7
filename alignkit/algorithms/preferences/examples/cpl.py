"""CPL by hand: one pair, in which the rejected answer counts half."""

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
)
