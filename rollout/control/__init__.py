"""The shell: the loop that observes, plans, journals, executes and reads back. It makes no choice of its own."""
