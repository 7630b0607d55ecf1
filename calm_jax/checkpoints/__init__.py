"""Checkpoints on disk: native (orbax) and published formats; nothing else in the library reads or writes weights."""
