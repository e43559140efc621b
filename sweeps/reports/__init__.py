"""The page of a sweep and the page of a comparison; imports only from the rooms below: tracking, and those under it."""
