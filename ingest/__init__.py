"""Events become batches: sources, batching, the batch protocol, triggers, job submission."""
