"""An OpenAI-compatible endpoint before the sampler: any program that speaks to one is an agent that can be trained."""
