"""Every metric name that a run may log, with its meaning: the one place where a name is introduced.

A name is `area/quantity[_unit]`. docs/glossary.md is written from this table (report/glossary.py).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from alignkit.errors import ContentError

MEANINGS: dict[str, str] = {
    "reward/mean": "mean reward of the step's scored completions, blended; in an environment mean return",
    "reward/std": "standard deviation of those rewards over the whole step",
    "reward/part/<name>": "mean of one reward before its weight is applied, over the completions it could score",
    "reward/unscorable_frac": "share of completions without a reward (timeout, crash, unreadable answer)",
    "reward/fault/<kind>": "number of faults of one kind (timeout, crash, parse, ...)",
    "rollout/length_mean": "mean completion length, in tokens, the stop token included",
    "rollout/length_max": "longest completion of the step, in tokens",
    "rollout/truncated_frac": "share of completions cut by max_new_tokens or by the model's context",
    "rollout/zero_spread_frac": "share of groups whose rewards are all equal: no signal for group-relative methods",
    "rollout/dropped_frac": "share of sampled groups dropped because of zero spread and replaced by new prompts",
    "rollout/refill_rounds": "extra sampling rounds that replaced dropped groups",
    "rollout/unique_frac": "different completions in a group divided by its size, averaged over groups",
    "rollout/turns_mean": "mean number of the policy's utterances in an episode (environments only)",
    "rollout/end/<end>": "share of episodes that ended so: done, or at a limit of turns, tokens, seconds or tool calls",
    "rollout/new_contexts": "how often an environment began a new context: each is a sequence of its own in the batch",
    "tools/calls_mean": "mean number of tool calls in an episode",
    "tools/fault_frac": "share of tool calls that failed",
    "tools/fault/<kind>": "number of tool calls that failed so: malformed, unknown, arguments, raised, timeout, or cut",
    "rollout/finished_frac": "share of utterances that a guide finished (rollouts.guide_roll_out only)",
    "rollout/prompts": "number of prompts in the step",
    "rollout/completions": "number of completions in the step",
    "rollout/tokens": "completion tokens sampled in the step",
    "rollout/policy_version": "updates applied to the weights that sampled the step's completions",
    "loss/policy": "the number that was minimised: every term of the objective, per unit of the algorithm's mean",
    "loss/tokens": "number of tokens that the loss was computed on; 0 means that everything was masked",
    "loss/sequences": "number of completions that the loss was computed on, after every filter",
    "policy/kl_sampler": "mean of sampler minus trainer log-prob over sampled tokens (k1 estimate of their KL)",
    "policy/kl_reference": "estimated KL from the policy to the reference model, per token, in nats",
    "policy/entropy": "mean entropy of the distributions that the tokens were drawn from, in nats",
    "policy/clip_frac": "share of tokens (or sequences) whose ratio lies outside the clip range",
    "policy/ratio_max": "largest ratio of new to old probability in the step",
    "loss/nll": "negative log-likelihood of the chosen (or right, or rewritten) answers per token, before its weight",
    "edits/rewarded_frac": "share of the tokens of right completions that the rewriting model rewards",
    "edits/penalised_frac": "share of the tokens of wrong completions that it penalises",
    "pairs/accuracy": "share of pairs whose chosen answer has the larger implied reward; equal ones count half",
    "pairs/margin": "mean implied reward of the chosen minus that of the rejected answer, at the scale of the loss",
    "pairs/reward_chosen": "mean implied reward of the chosen (or good) answers",
    "pairs/reward_rejected": "mean implied reward of the rejected (or bad) answers",
    "pairs/logprob_chosen": "mean log-prob of whole chosen (or good) answers under the policy",
    "pairs/logprob_rejected": "mean log-prob of whole rejected (or bad) answers under the policy",
    "pairs/kl_chosen": "mean KL from the reference to the policy over whole chosen answers, exact at each token",
    "pairs/kl_rejected": "the same of the rejected answers",
    "pairs/reward_square": "mean squared reward of a token that the logits imply, which the loss keeps small",
    "pairs/length_chosen": "mean tokens of the chosen (or good) answers",
    "pairs/length_rejected": "mean tokens of the rejected (or bad) answers",
    "policy/kl_update": "KL per token from the policy as the update phase began to the one being updated (k3 estimate)",
    "loss/reward": "a reward model's loss, per unit of its mean",
    "quantiles/crossing_frac": "share of neighbouring quantiles of which the higher level has the lower value",
    "steps/accuracy": "share of reasoning steps that the model puts on the right side of one half",
    "steps/label": "mean label of the steps",
    "outcomes/accuracy": "share of answers whose outcome the model says right",
    "loss/contrast": "the goal-conditioned contrastive term of a reward model, before its weight",
    "costs/sign_accuracy": "share of answers whose cost is on the right side of 0: above it for unsafe ones",
    "ratings/accuracy": "share of answers that lie between the bounds of the class they were rated",
    "lengths/correlation": "correlation of the rewards with the answers' lengths within the batch, before its update",
    "lengths/absorbed": "the same of the head that takes what length explains, which scoring drops",
    "loss/critic": "the critic's loss, per unit of its mean",
    "critic/value": "mean value that the critic gives to the states before the trained tokens",
    "critic/return": "mean of what these values should have been",
    "critic/q_error": "mean squared difference of values Q, of utterances or of tokens, from their targets",
    "critic/v_error": "the same of state values V",
    "critic/cql": "mean of -log softmax(Q) at the tokens of the data, before its weight",
    "critic/error": "mean squared difference of the two",
    "critic/cost": "mean value that the critics of costs give to these states",
    "critic/cost_error": "mean squared difference from what it should have been",
    "control/<name>": "a coefficient that the algorithm adapts, as it was in this step",
    "pairs/zero_point": "implied reward from which KTO counts gains and losses: beta times the estimated KL",
    "constraint/cost/<name>": "mean cost of the step's sequences",
    "constraint/multiplier/<name>": "what a unit of that cost takes from the reward",
    "constraint/saturated": "number of constraints whose multiplier is at its cap",
    "fixup/steps": "optimizer steps that took back what had moved too far",
    "fixup/kl_max": "largest KL of a token from the policy that sampled it, after them",
    "noise/signal": "estimated squared norm of the true gradient, of this step alone",
    "noise/variance": "estimated variance of one unit's gradient, of this step alone",
    "noise/scale": "gradient noise scale: units a step at which noise and signal are equal, over recent steps",
    "optim/grad_norm": "global gradient norm before clipping",
    "optim/critic_grad_norm": "the same of a critic of its own",
    "optim/lr": "learning rate of the update",
    "sync/canary_gap": "mean absolute log-prob difference between engine and trainer on the probe, after the last sync",
    "sync/policy_version": "number of the weights that the engine holds",
    "replay/turns": "past turns to draw from",
    "replay/never_said": "share of fresh utterances that no past episode holds",
    "data/epoch": "passes over the training tasks so far, as a fraction",
    "data/consumed": "prompts taken from the training tasks so far",
    "data/rows/<source>": "rows that this step drew from one source of a mixture",
    "data/left_out_frac": "share of paired preferences or unpaired feedback that cannot be learnt from (events.jsonl)",
    "eval/accuracy": "share of held-out tasks answered correctly (mean over samples per task)",
    "eval/accuracy/<source>": "the same of the tasks from one source of a mixture",
    "eval/reward_mean": "mean reward of the evaluation's answers; in an environment the mean return of its episodes",
    "eval/tasks": "number of held-out tasks",
    "eval/truncated_frac": "share of evaluation answers cut by the length limit",
    "eval/unscorable_frac": "share of evaluation answers that the grader could not score",
    "eval/suite/<measure>": "a benchmark's number, as `<protocol>.<metric>`, when `evaluation.suite` is set",
    "eval/length_mean": "mean length of evaluation answers, in tokens",
    "time/sample_s": "seconds spent sampling completions",
    "time/score_s": "seconds spent scoring them",
    "time/logprobs_s": "seconds spent on old and reference log-probs",
    "time/update_s": "seconds spent on forward, backward and optimizer",
    "time/sync_s": "seconds spent sending the weights to the engine and checking the canary",
    "time/step_s": "seconds of the whole step",
    "time/clock_s": "Unix time when the line was written",
    "memory/peak_gib": "largest memory of the trainer's process so far, in GiB",
    "user/<name>": "a metric of your own algorithm or reward file",
}
"""Name -> meaning. `<...>` stands for any last part without a slash."""


def meaning(name: str) -> str | None:
    """The one-line meaning of a metric, or None when the name is not declared."""
    if name in MEANINGS:
        return MEANINGS[name]
    area, _, last = name.rpartition("/")
    family = [declared for declared in MEANINGS if declared.startswith(f"{area}/<")]
    return MEANINGS[family[0]] if family and last else None


def check_names(metrics: Iterable[str]) -> None:
    """Raises ContentError, with a guess, for the first name that the table does not declare."""
    for name in metrics:
        if meaning(name) is None:
            close = difflib.get_close_matches(name, MEANINGS, n=1)
            guess = f"did you mean {close[0]}? " if close else ""
            raise ContentError(
                f"metric {name!r} is not declared in alignkit/run_folder/names.py; {guess}"
                f"(a metric of your own goes under user/)"
            )
