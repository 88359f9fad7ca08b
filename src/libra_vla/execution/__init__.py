"""Execution: the policy protocol, the intent buffer and the executors. No torch in here."""
