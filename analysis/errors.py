"""Errors of the analysis that a person can act on."""


class AnalysisError(Exception):
    """Something asked of the analysis cannot be done. The text says what, where, and what would be right."""
