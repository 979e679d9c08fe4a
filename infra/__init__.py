"""The ground Perennial runs on: settings, logging, version floors. Imports nothing above it."""
