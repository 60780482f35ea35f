"""Asks a model about changed images: what does it answer where a part is covered, or added? Knows no Beam, no files."""

from transforms.probing.add import Donor, pasted
from transforms.probing.covering import cover
from transforms.probing.findings import KINDS, Finding, Kind, located_findings
from transforms.probing.locate import covered_windows
from transforms.probing.places import Box, Grid, in_words, mask_of

__all__ = [
    "KINDS",
    "Box",
    "Donor",
    "Finding",
    "Grid",
    "Kind",
    "cover",
    "covered_windows",
    "in_words",
    "located_findings",
    "mask_of",
    "pasted",
]
