"""The pages that people read: a sweep's `report.html`, and several sweeps side by side."""
