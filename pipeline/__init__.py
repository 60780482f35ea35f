"""A run: its configuration, plan, graph and summary, and the command line."""
