"""Where hints come from: queues, webhooks, and what they are written in."""
