"""Physics-informed operators: networks whose predictions must satisfy the equations that generated the data."""
