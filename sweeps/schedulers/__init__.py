"""Early stopping and Tune's other schedulers, and the history they are rebuilt from; imports only from rooms below."""
