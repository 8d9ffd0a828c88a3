"""What a container can prove about itself, one file for each place where a truth is read."""
