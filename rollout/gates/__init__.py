"""One file per gate: evidence and policy in, an outcome with reasons out. Pure."""
