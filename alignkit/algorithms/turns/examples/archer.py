"""ArCHer by hand: an episode of one turn, paid 1, or of two, paid 0 and 1, and a fresh utterance after its first state.

The level is the mean of the discounted returns of the turns played, the scale their deviation (1 for one turn).
"""

from math import log

from alignkit.types.example import WorkedExample

NONE = (0.0, 0.0, 0.0, 0.0)
STATE = (9.0, 9.0, 1 / 2, 1 / 4)  # heads q1 q2 v1 v2: V(o); a score of the state's own last token is nobody's
SCORES = (1 / 4, 1 / 2, 0.0, 0.0)

EXAMPLES = (
    # level 1, scale 1.   V(o) = 3/2 5/4, slow V after the answer 3 5: Q -> 1 + 1/2 (3 5) = 5/2 7/2
    # Q(o, u) = V + scores = 3/2 + 1, 5/4 + 1.   V -> slow Q(o, u') = 1 + 3/2 1/2, its slow V being 1
    # A of u' = min(3/2 + 1/4, 5/4 + 1/2) - 5/4 = 1/2;  of u, played just now, 1 + 1/2 min(3 5) - 5/4 = 5/4
    WorkedExample(
        settings={"discount": 0.5},
        batch={
            "action_mask": ((True, False), (True,)),
            "reward": (1.0, 0.0),
            "target_values": ((NONE, NONE, (0.0, 0.0, 2.0, 4.0)), (NONE, (3 / 2, 1 / 2, 0.0, 0.0))),
            "sampler_logprobs": ((log(1 / 4), 0.0), (log(1 / 4),)),
            "old_logprobs": ((log(1 / 2), 0.0), (log(1 / 4),)),
        },
        outputs={
            "logprobs": ((log(1 / 2), 0.0), (log(1 / 4),)),
            "values": ((STATE, (1.0, 1.0, 0.0, 0.0), (0.0, 0.0, 2.0, 4.0)), (STATE, SCORES)),
        },
        advantages=(5 / 4, 1 / 2),
        loss={
            # the ratio of u to the policy that played it is 2, which counts as 1.2
            "policy": -1.2 * 5 / 4 - 1 / 2,
            "critic": (5 / 2 - 5 / 2) ** 2 + (9 / 4 - 7 / 2) ** 2 + (3 / 2 - 5 / 2) ** 2 + (5 / 4 - 3 / 2) ** 2,
        },
        metrics={"critic/value": 11 / 8, "critic/q_error": (5 / 4) ** 2 / 2, "critic/v_error": (1 + 1 / 16) / 2},
    ),
    # returns 1/2 and 1: level 3/4, scale 1/4.   slow V 3/4 before both turns and nothing after them
    # deltas 3/8 - 3/4 = -3/8 and 1/4: Q -> 3/4 - 3/8 + 1/4 1/4 = 7/16, and 1.   Q = 3/4 + 1/4 (1 2) and 3/4 + 1/4 (0 4)
    # V(o) = 3/4 + 1/4 (1/2 1/4) -> slow Q(o, u') = 3/4 + 1/4 (2 1), a number at its last token alone
    # A of u' = 3/4 + 1/4 - (3/4 + 1/16) = 3/16.   Its log-probs of two tokens are 1/2, 1/4, the reference's 1 and 1/4
    # A of the turns played: V is 13/16 and 3/4, the deltas 3/8 - 13/16 = -7/16 and 1 - 3/4; -7/16 + 1/4 1/4 = -3/8
    WorkedExample(
        settings={
            "discount": 0.5,
            "q_lambda": 0.5,
            "head": "last_token",
            "played_weight": 0.5,
            "kl_weight": 2.0,
            "least_ranking": 0.0,
        },
        batch={
            "action_mask": ((True, False, True), (True, True)),
            "reward": (1.0, 0.0),
            "target_values": ((NONE, NONE, NONE, NONE), (NONE, NONE, (2.0, 1.0, 0.0, 0.0))),
            "old_logprobs": ((log(1 / 2), 0.0, log(1 / 2)), (log(1 / 2), log(1 / 4))),
            "ref_logprobs": ((0.0, 0.0, 0.0), (0.0, log(1 / 4))),
        },
        outputs={
            "logprobs": ((log(1 / 2), 0.0, log(1 / 2)), (log(1 / 2), log(1 / 4))),
            "values": (
                (STATE, (1.0, 2.0, 0.0, 0.0), NONE, (0.0, 4.0, 0.0, 0.0)),
                (STATE, (7.0, 7.0, 0.0, 0.0), (1.0, 2.0, 0.0, 0.0)),
            ),
        },
        advantages=((-3 / 8, 1 / 4), 3 / 16),
        loss={
            "policy": -1 / 2 * (-3 / 8 + 1 / 4) - 2 * 3 / 16 + 2 * log(2) ** 2 / 2,
            "critic": 16 * ((1 - 7 / 16) ** 2 + (5 / 4 - 7 / 16) ** 2 + (3 / 4 - 1) ** 2 + (7 / 4 - 1) ** 2) / 2
            + ((1 / 2 - 2) ** 2 + (1 / 4 - 1) ** 2) / 2,
        },
    ),
    # as the first, with Q = V + a number at the last token, and an actor that does not follow critics that cannot rank
    WorkedExample(
        settings={"discount": 0.5, "head": "dueling", "least_ranking": 0.5},
        batch={
            "action_mask": ((True, False), (True, True)),
            "reward": (1.0, 0.0),
            "target_values": ((NONE, NONE, (0.0, 0.0, 2.0, 4.0)), (NONE, NONE, (3 / 2, 1 / 2, 0.0, 0.0))),
            "old_logprobs": ((log(1 / 2), 0.0), (log(1 / 4), log(1 / 2))),
        },
        outputs={
            "logprobs": ((log(1 / 2), 0.0), (log(1 / 4), log(1 / 2))),
            "values": ((STATE, (1.0, 1.0, 0.0, 0.0), (0.0, 0.0, 2.0, 4.0)), (STATE, (7.0, 7.0, 0.0, 0.0), SCORES)),
        },
        advantages=(5 / 4, 0.0),
        loss={
            "policy": -5 / 4,
            "critic": (5 / 2 - 5 / 2) ** 2 + (9 / 4 - 7 / 2) ** 2 + (3 / 2 - 5 / 2) ** 2 + (5 / 4 - 3 / 2) ** 2,
        },
    ),
)
