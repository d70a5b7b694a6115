"""Archives of PostgreSQL clusters: segments made by hand, and a real PostgreSQL."""
