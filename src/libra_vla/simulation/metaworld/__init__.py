"""Meta-World 3: its tasks as environments, and its own experts."""
