"""Policies to compare with: other ways to turn the same tokens into the same chunk of actions.

All share Libra's backbone, its visual encoder, action space, data and training loop, and presets
size them to its number of parameters.
"""
