"""Quality of a generator: distances, neighbours, modes."""
