"""A demonstration that needs no network: real data, a small trained model, and what depth and guarantees do to it."""
