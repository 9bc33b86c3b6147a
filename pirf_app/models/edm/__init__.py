"""Networks that other EDM code bases published, read as data."""
