"""Collecting: demonstrations by the scripted experts, as a LeRobot v3.0 dataset."""

from libra_vla.collection.attempt import Attempt, Demonstration, demonstrate
from libra_vla.collection.collecting import collect
from libra_vla.collection.config import CollectConfig

__all__ = ["Attempt", "CollectConfig", "Demonstration", "collect", "demonstrate"]
