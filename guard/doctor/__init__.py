"""Looks at a deployment, and says what to do."""

from guard.doctor.examine import examine
from guard.doctor.values import Finding, Level

__all__ = ["Finding", "Level", "examine"]
