"""A classifier on KServe's Python server, behind Guard."""
