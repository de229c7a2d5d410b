"""Readers of the official file formats: untrusted bytes in, checked frozen values out, one clear error otherwise."""
