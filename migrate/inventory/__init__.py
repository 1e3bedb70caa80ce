"""What the old product says it has: catalogue readers, the store they fill, one validator.

``read_catalogs`` fills an ``Inventory``; ``validated`` streams its images with their problems.
"""

from migrate.inventory.detect import FORMATS, read_catalogs
from migrate.inventory.options import ImportOptions
from migrate.inventory.report import Finding, ImportReport, Severity
from migrate.inventory.store import Inventory, MediaTotal, PlacedFragment, Spanning
from migrate.inventory.validator import KnownMedia, copy_problems, validate, validated

__all__ = [
    "FORMATS",
    "Finding",
    "ImportOptions",
    "ImportReport",
    "Inventory",
    "KnownMedia",
    "MediaTotal",
    "PlacedFragment",
    "Severity",
    "Spanning",
    "copy_problems",
    "read_catalogs",
    "validate",
    "validated",
]
