"""Source separation: stems, mixtures to train on, the separator, and BSSEval song by song."""
