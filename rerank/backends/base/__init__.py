"""Code shared by backends for servers: addresses and keys, connections, the choice of a server, estimated tokens."""
