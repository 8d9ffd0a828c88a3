"""What splits live traffic: one file per router."""
