"""Experimental training objectives that replace losses. Each module defines one plug-in."""
