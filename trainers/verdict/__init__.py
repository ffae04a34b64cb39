"""How good a generator is: distances, neighbours, modes."""
