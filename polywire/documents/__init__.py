"""Documents made of a contract: OpenAPI, JSON Schema, snippets. Pure functions of what is declared."""
