"""Many copies of the engine behind one API. Only three modules know Ray."""
