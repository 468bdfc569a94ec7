"""A process reward model by hand: steps that end with the tokens whose mask is set."""

from math import log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # s = 3/4 for both steps;  y = 1: -log 3/4;  y = 1/4: -1/4 log 3/4 - 3/4 log 1/4
    WorkedExample(
        batch={"action_mask": ((False, True, True),), "rewards": ((0.0, 1.0, 0.25),)},
        outputs={"values": ((0.0, 0.0, log(3), log(3)),)},
        loss={"reward": (1.25 * log(4 / 3) + 0.75 * log(4)) / 2},
    ),
    # right, wrong and what follows, which is left out: -log 3/4 and -log(1 - 3/4)
    WorkedExample(
        settings={"until_first_error": True},
        batch={"rewards": ((1.0, 0.0, 1.0),)},
        outputs={"values": ((0.0, log(3), log(3), log(5)),)},
        loss={"reward": (log(4 / 3) + log(4)) / 2},
        metrics={"steps/accuracy": 0.5, "steps/label": 0.5},
        judged={"value": (0.75,), "steps": ((0.75, 0.75, 5 / 6),)},
    ),
    # s = 2/3 3/4 5/6 and 1/2;  -log of 2/3, 1/4, 5/6 and, for y = 1/2, log 2.   0 and 1/2 are on the same side
    *(
        WorkedExample(
            settings={"value": name},
            batch={"rewards": ((1.0, 0.0, 1.0), (0.5,))},
            outputs={"values": ((0.0, log(2), log(3), log(5)), (0.0, 0.0))},
            loss={"reward": (log(3 / 2) + log(4) + log(6 / 5) + log(2)) / 4},
            metrics={"steps/accuracy": 3 / 4, "steps/label": 5 / 8},
            judged={"value": (value, 0.5)},
        )
        for name, value in {"min": 2 / 3, "product": 5 / 12, "last": 5 / 6, "mean": 3 / 4}.items()
    ),
)
