"""How a swarm decides, and what its ledger says: pure, and shared, so that anyone recomputes what a coordinator did."""
