"""Node drivers: each file here is one driver; importing it registers it (see driver.py)."""
