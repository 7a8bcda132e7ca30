"""Fuzzers: of Guard's parsers, and of what Guard screens against what the real Triton then executes."""
