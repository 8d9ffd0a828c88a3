"""One file per group of commands; heavy imports stand inside the functions so that `--help` stays quick."""
