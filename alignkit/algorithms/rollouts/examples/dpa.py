"""DPA by hand: a prompt that asks for brevity more than for the right answer."""

from math import log, nan

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # s = 1/4 and 3/4: the second completion is imitated, whatever the blended reward says
    WorkedExample(
        batch={
            "reward": (1.0, 0.0),
            "channels": {
                "right": (1.0, 0.0),
                "short": (0.0, 1.0),
                "direction/right": (0.25, 0.25),
                "direction/short": (0.75, 0.75),
            },
        },
        outputs={"logprobs": ((log(1 / 2),), (log(1 / 4),))},
        loss={"policy": log(4)},
    ),
    # the first prompt asks for what is right alone, the second for brevity alone, at 1/2 at most: too little
    WorkedExample(
        settings={"min_reward": 0.75},
        batch={
            "group": (0, 0, 1, 1),
            "channels": {
                "right": (1.0, 0.0, 6.0, 0.0),
                "short": (nan, nan, 0.0, 0.5),
                "direction/right": (1.0, 1.0, nan, nan),
                "direction/short": (0.0, 0.0, 1.0, 1.0),
            },
        },
        outputs={"logprobs": ((log(1 / 2),), (log(1 / 4),), (log(1 / 8),), (log(1 / 16),))},
        loss={"policy": log(2)},
    ),
)
