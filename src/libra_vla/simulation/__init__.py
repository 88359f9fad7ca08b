"""Simulation: benchmarks, their environments and the scripted experts.

Nothing here imports a simulator until an environment is built.
"""
