"""Skills of the scripted expert, a file for each family."""
