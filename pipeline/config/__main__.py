"""`python -m pipeline.config` prints docs/configuration.md."""

from pipeline.config.reference import configuration_page

print(configuration_page(), end="")
