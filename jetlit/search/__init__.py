"""The searches: where full attention stays, which linear block, which shape of it."""
