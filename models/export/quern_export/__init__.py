"""Turns trained dual encoders into Quern model packages."""
