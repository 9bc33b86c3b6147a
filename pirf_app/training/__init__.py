"""What every training run is, whatever its objective."""
