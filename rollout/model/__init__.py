"""Pure data: policy, snapshot, evidence, verdict, run, wire formats. No I/O, clock, randomness or logging."""
