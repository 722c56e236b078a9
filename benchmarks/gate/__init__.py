"""What the gate's checks are worth, measured on real images."""
