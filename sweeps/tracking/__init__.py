"""Publishing a sweep's record to MLflow: runs, points, models and the view; imports only from rooms below."""
