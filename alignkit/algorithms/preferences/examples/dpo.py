"""DPO by hand: one pair, of which the policy has moved both sides the right way."""

from math import exp, log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # D_w = log(1/4 : 1/8) = log 2,  D_l = log(1/4 : 1/2) = -log 2:  -log sigmoid(log 4) = log(5/4)
    # and half of -mean l_w = log 2
    WorkedExample(
        settings={"beta": 1.0, "nll_weight": 0.5},
        batch={"side": (1, -1), "ref_logprobs": ((log(1 / 2), log(1 / 4)), (log(1 / 2),))},
        outputs={"logprobs": ((log(1 / 2), log(1 / 2)), (log(1 / 4),))},
        loss={"policy": log(5 / 4) + 0.5 * log(2)},
        metrics={"loss/nll": log(2)},
    ),
    # IPO: D_w = log(2) / 2 per token, D_l = -log 2:  (1.5 log 2 - 1 / (2 beta))^2
    WorkedExample(
        settings={"loss_type": "ipo", "beta": 0.5, "pool": "mean"},
        batch={"side": (1, -1), "ref_logprobs": ((log(1 / 2), log(1 / 4)), (log(1 / 2),))},
        outputs={"logprobs": ((log(1 / 2), log(1 / 2)), (log(1 / 4),))},
        loss={"policy": (1.5 * log(2) - 1) ** 2},
        metrics={"pairs/margin": 0.75 * log(2)},
        judged={"value": (log(2) / 4, -log(2) / 2)},
    ),
    # f-DPO: D = 2 log 2 and -2 log 2, (e^{-D / 2} - 1) / (-1/2) = 1 and -2;  a quarter of the labels may be flipped
    WorkedExample(
        settings={"beta": 1.0, "divergence": "alpha", "alpha": 0.5, "label_smoothing": 0.25},
        batch={"side": (1, -1), "ref_logprobs": ((log(1 / 8),), (log(1 / 2),))},
        outputs={"logprobs": ((log(1 / 2),), (log(1 / 8),))},
        loss={"policy": 0.75 * log(1 + exp(-3)) + 0.25 * log(1 + exp(3))},
    ),
    # D_w = log 3 and D_l = -log 2, so beta h = log 6
    *(
        WorkedExample(
            settings={"beta": 1.0} | settings,
            batch={"side": (1, -1), "ref_logprobs": ((log(1 / 4),), (log(1 / 2),))},
            outputs={"logprobs": ((log(3 / 4),), (log(1 / 4),))},
            loss={"policy": loss},
        )
        for settings, loss in (
            ({"loss_type": "robust", "label_smoothing": 0.25}, (0.75 * log(7 / 6) - 0.25 * log(7)) / 0.5),
            ({"loss_type": "hinge", "beta": 0.5}, 1 - log(6) / 2),
            ({"loss_type": "exo", "label_smoothing": 0.25}, 6 / 7 * log(6 / 7 / 0.75) + 1 / 7 * log(1 / 7 / 0.25)),
            ({"loss_type": "nca"}, log(4 / 3) + (log(4) + log(3 / 2)) / 2),
            ({"loss_type": "apo_zero"}, 1 - 3 / 4 + 1 / 3),
            ({"loss_type": "apo_down"}, 3 / 4 + 1 / 7),
            ({"divergence": "forward_kl"}, log(1 + exp(-5 / 3))),  # -1/3 and -2
            ({"divergence": "jensen_shannon"}, log(1 + 4 / 9)),  # log 3/4 and log 1/3
            ({"divergence": "alpha", "alpha": 1.0}, log(7 / 6)),
            ({"divergence": "forward_kl", "alpha": 1.0}, log(1 + exp(-5 / 3))),
        )
    ),
)
