"""Experimental training objectives that replace losses, one plug-in per file."""
