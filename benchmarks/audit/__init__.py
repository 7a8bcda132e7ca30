"""What the audit log costs a request, and what its thread pays for a record."""
