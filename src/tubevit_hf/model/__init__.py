"""What ships to the Hub with every checkpoint: these files import libraries and each other only."""
