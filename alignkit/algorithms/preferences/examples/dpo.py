"""DPO by hand: one pair, of which the policy has moved both sides the right way."""

from math import log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # D_w = log(1/4 : 1/8) = log 2,  D_l = log(1/4 : 1/2) = -log 2:  -log sigmoid(log 4) = log(5/4)
    # and half of -mean l_w = log 2
    WorkedExample(
        settings={"beta": 1.0, "nll_weight": 0.5},
        batch={"side": (1, -1), "ref_logprobs": ((log(1 / 2), log(1 / 4)), (log(1 / 2),))},
        outputs={"logprobs": ((log(1 / 2), log(1 / 2)), (log(1 / 4),))},
        loss={"policy": log(5 / 4) + 0.5 * log(2)},
    ),
)
