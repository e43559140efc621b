"""Records on disk: names of files, reader, summary and Pareto front. Imports only from `config`."""
