"""Answers of the policy and what the update needs to know about them: generation, log-probabilities, experience."""
