"""What a run amounts to, for people and for tools: pure functions over its records."""
