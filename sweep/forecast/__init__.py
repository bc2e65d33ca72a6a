"""What a described cluster would make of a plan: wall time, GPU-hours, price. No Ray."""
