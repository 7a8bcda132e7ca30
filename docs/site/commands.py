"""The reference of commands, from the commands themselves."""

# ruff: noqa: INP001 - MkDocs loads this file by its path
