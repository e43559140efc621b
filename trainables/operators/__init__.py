"""Physics-informed operators: what a network predicts must satisfy the equations that made its data."""
