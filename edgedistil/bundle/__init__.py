"""Folders that run an export on a device: in C++, in Python, or on a web page."""
