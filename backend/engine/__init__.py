"""The stages on one device, one file per verb."""
