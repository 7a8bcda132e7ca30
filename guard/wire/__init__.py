"""Everything that touches network bytes."""
