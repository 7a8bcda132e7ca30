"""`make bench`: the screening engine beside every reference, on the same work and in one interleaved run."""
