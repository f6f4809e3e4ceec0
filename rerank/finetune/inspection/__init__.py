"""Tools for trained adapters and models: report how training changed the weights, and merge or average adapters."""
