"""Executing a plan on Ray: which run comes next, where, and what happens when something dies."""
