"""Beam's runners: their options, their jobs, and their job servers."""
