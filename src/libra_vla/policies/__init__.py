"""Policies: planner, refiner, `LibraPolicy`, and the baselines that share their parts."""

from libra_vla.policies.policy import LibraPolicy, load_policy

__all__ = ["LibraPolicy", "load_policy"]
