"""Experimental methods that choose a rank per matrix. Each module defines one plug-in."""
