"""LIBERO: its environments, drawn without waste, and scripted experts for its tasks."""
