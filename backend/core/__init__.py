"""Values only: settings, types, errors and the engine contract. Imports nothing of the project."""
