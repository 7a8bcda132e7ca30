"""Query attacks against the memory of queries, beside Blacklight."""
