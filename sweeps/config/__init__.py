"""Configurations: schema, YAML files, composition and checks. Imports from no other room."""
