"""The reference of settings, from the JSON Schema of the policy: it can't be older than the code."""

# ruff: noqa: INP001 - MkDocs loads this file by its path
