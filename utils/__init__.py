"""Everything the commands are built from, one folder ("room") per kind of work; CONTRIBUTING.md has the map."""
