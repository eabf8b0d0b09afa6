"""One run from the request to its record, and what is built of runs: plans, reproductions, perturbations."""
