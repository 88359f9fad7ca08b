from hypothesis import settings

# Tests share their cores with others: how long an example takes says nothing about the code.
settings.register_profile("libra", deadline=None)
settings.load_profile("libra")
