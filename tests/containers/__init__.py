"""The worker image, built and run for real. `.ci/image` runs these tests; the first time takes minutes."""
