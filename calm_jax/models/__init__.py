"""Transformers that know nothing of depth decisions."""
