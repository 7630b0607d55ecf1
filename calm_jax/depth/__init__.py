"""Decisions about depth: what to run, for which token, and when to stop. They import types and nothing else."""
