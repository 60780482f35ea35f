"""What a run needs to know of Beam's runners: their options, their jobs, and where their job servers come from."""
