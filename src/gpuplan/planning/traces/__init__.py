"""What is known of a model without running it: the trace of one training step. Pure."""
