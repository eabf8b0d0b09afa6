"""One run from its configuration to its record, and what is built of runs: plans, reproductions, perturbations."""
