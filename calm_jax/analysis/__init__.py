"""Looking inside: how sure each layer is, and what an early error costs."""
