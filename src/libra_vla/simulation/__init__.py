"""Simulation: what a benchmark is, and a package for each of those there are.

Nothing here imports a simulator until an environment is built.
"""
