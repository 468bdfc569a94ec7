"""An implicit reward model by hand: a right answer and a wrong one."""

from math import log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # right, log-ratio log 2: -log 2/3;  wrong, log-ratio -log 3: -log(1 - 1/4);  their mean
    WorkedExample(
        settings={"beta": 1.0},
        batch={
            "channels": {"rating": (1.0, 0.0)},
            "ref_logprobs": ((log(1 / 2), log(1 / 4)), (log(3 / 4),)),
        },
        outputs={"logprobs": ((log(1 / 2), log(1 / 2)), (log(1 / 4),))},
        loss={"reward": (log(3 / 2) + log(4 / 3)) / 2},
    ),
)
