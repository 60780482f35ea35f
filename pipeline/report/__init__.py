"""Builds the report: a folder with a page that opens from disk and shows what a run found."""

from pipeline.report.build import Built, build_report
from pipeline.report.folder import UnusableFolder
from pipeline.report.unusable import UnusableResults

__all__ = ["Built", "UnusableFolder", "UnusableResults", "build_report"]
