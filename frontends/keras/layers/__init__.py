"""Rows of the table, by family."""
