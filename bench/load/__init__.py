"""Load generators: closed loops that count only what was acknowledged."""
