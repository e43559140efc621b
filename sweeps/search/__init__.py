"""The search: space, study, samplers and the feedback they get. Imports only from `storage` and below."""
