"""Code shared by backends for servers: addresses and keys, connections, retries, errors, estimated token counts."""
