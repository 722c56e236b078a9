"""What is claimed about speed and quality, as commands that print a table."""
