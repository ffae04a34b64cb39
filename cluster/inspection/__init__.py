"""What is done with runs besides training them, and with the machines they need."""
