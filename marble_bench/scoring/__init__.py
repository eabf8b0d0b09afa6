"""What is scored and how sure: targets, the class `Metric`, scores of predictions, statistics."""
