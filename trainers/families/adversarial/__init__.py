"""What the adversarial families share, and no family itself: their networks, their samples, and how they are told."""
