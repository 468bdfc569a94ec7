"""SFT by hand: one answer of one token and one of two."""

from math import log

from alignkit.types.example import WorkedExample

SAID = {"logprobs": ((log(1 / 2),), (log(1 / 4), log(1 / 8)))}

EXAMPLES = (
    # three tokens, -l = 1, 2 and 3 log 2: their mean
    WorkedExample(outputs=SAID, loss={"policy": 2 * log(2)}),
    # two answers, mean -l per token = 1 and 2.5 log 2: their mean
    WorkedExample(settings={"aggregate": "sequence_mean_token_mean"}, outputs=SAID, loss={"policy": 1.75 * log(2)}),
)
