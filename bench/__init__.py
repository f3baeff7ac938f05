"""How fast the hub is, beside what people would use in its place. See README.md."""
