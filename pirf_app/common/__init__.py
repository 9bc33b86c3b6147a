"""What every room uses: checks, random streams, words, files, memory, processes. No physics."""
