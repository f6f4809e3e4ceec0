"""What backends for servers share: addresses and keys, connections, retries, errors, and estimated token counts."""
