"""From prompts to rollouts: how one comes about, groups of them scored, and what is learnt from them."""
