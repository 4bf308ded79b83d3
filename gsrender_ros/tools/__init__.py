"""Tools around the package: set up an environment, generate messages; standard library only."""
