"""Files: the native container, atomic writes, the hub. Nothing here knows what a vector or a plan is."""
