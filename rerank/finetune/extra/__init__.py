"""Experimental training methods, from research papers and not widely used. Listings mark them as experimental."""
