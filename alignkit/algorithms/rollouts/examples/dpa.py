"""DPA by hand: a prompt that asks for brevity more than for the right answer."""

from math import log

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
)
