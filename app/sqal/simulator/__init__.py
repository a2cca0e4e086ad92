"""The reference client: simulated devices that speak today's protocol and keep a journal of their acks."""
