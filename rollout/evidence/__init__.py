"""The state folder: lease, journal, objects, baselines, commands. Nothing here decides anything about a rollout."""
