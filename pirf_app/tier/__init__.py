"""A resolution tier in a stated time, and what this machine is capable of."""
