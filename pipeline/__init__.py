"""What a run is: its configuration, plan, graph and summary, and the command line."""
