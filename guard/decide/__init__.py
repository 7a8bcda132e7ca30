"""Findings to a verdict, and a verdict to an action: pure functions."""
