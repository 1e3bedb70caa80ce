"""Tapes: sources of blocks and filemarks, and the shelf they stand on."""
