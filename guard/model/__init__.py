"""Replicas of the guarded model, behind the Backend protocol."""
