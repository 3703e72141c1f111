"""jetlit: Lightning-based, modular training recipes for PostNAS."""
