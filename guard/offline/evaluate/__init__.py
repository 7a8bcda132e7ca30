"""`guard evaluate`: attacks, real conditions and a profile, measured and reported."""
