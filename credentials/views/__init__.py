"""The pages of endpoints and tokens, one module per journey. Each view parses, calls one verb and answers."""
