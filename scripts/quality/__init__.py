"""How well a setting speaks: codes are made where it runs, and judged on any CPU."""
