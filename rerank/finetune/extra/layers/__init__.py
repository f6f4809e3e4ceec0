"""Experimental methods that train a few layers at a time. Each module defines one plug-in."""
