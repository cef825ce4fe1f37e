"""HTTP: routers, schemas, the error table."""
