"""Guard as a library in a Python model server."""
