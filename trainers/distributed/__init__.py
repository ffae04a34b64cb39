"""How the gradients of micro-batches are synchronized between workers."""
