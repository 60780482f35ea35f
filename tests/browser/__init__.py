"""The report in headless browsers, from disk."""
