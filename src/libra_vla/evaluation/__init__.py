"""Evaluation: rollouts under a benchmark's protocol, with honest statistics."""
