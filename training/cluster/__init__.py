"""Ray: workers, their driver, and whoever watches over both."""
