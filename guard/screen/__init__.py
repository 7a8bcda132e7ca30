"""Detectors as trials, the mutations they ask for, and the engine that buys their evidence."""
