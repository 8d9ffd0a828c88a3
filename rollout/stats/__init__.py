"""Pure statistics: arrays in, numbers out. No I/O, clock, global randomness or logging; `rng` is an argument."""
