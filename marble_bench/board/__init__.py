"""Puts records and published scores together: rows, ranks, comparisons, tables, figures, the page."""
