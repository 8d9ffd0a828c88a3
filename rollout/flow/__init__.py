"""Pure choice: phases, the transition table, the fold of a journal, the planner, the invariants."""
