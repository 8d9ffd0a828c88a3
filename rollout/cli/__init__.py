"""The edge: commands, wiring, rendering, exit codes."""
