"""Looking inside: how sure each layer is, what an early error costs, and how far a choice of depth by text could go."""
