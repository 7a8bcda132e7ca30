"""A classifier on a real Triton, behind Guard."""
