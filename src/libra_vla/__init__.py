"""Libra-VLA: robot policies split into a slow Semantic Planner and a fast Action Refiner.

Importing this package is light: simulators, torch and video codecs load with the rooms that
need them.
"""

__version__ = "0.1.0"
