"""TDPO by hand: DPO's pair, whose rejected side has drifted further from the reference."""

from math import log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # D_w - D_l = 2 log 2,  K_l - K_w = 3 log 2 - log 2:  -log sigmoid(2 log 2 - 0.5 2 log 2) = log(3/2)
    # and half of -mean l_w = log 2
    WorkedExample(
        settings={"beta": 1.0, "kl_weight": 0.5, "nll_weight": 0.5},
        batch={"side": (1, -1), "ref_logprobs": ((log(1 / 2), log(1 / 4)), (log(1 / 2),))},
        outputs={
            "logprobs": ((log(1 / 2), log(1 / 2)), (log(1 / 4),)),
            "ref_kl": ((log(2) / 4, log(2) * 3 / 4), (3 * log(2),)),
        },
        loss={"policy": log(3 / 2) + 0.5 * log(2)},
        metrics={"loss/nll": log(2)},
        gradient={"ref_kl": ((0.0, 0.0), (0.5 / 3,))},  # -0.5 of that by -D_l, -1/3;  K_w is held constant
    ),
    # TDPO1: the chosen side's KL has its gradient too.   beta makes 2 log 2 of log 2: by -D_l -2/5
    WorkedExample(
        settings={"beta": 2.0, "kl_weight": 0.5, "chosen_gradient": True},
        batch={"side": (1, -1), "ref_logprobs": ((log(1 / 2), log(1 / 4)), (log(1 / 2),))},
        outputs={
            "logprobs": ((log(1 / 2), log(1 / 2)), (log(1 / 4),)),
            "ref_kl": ((log(2) / 4, log(2) * 3 / 4), (3 * log(2),)),
        },
        loss={"policy": log(5 / 4)},
        gradient={"ref_kl": ((-0.2, -0.2), (0.2,))},
        metrics={"pairs/kl_chosen": log(2), "pairs/kl_rejected": 3 * log(2), "pairs/margin": 4 * log(2)},
        judged={"value": (2 * log(2), -2 * log(2))},
    ),
)
