"""Experimental training methods from research that few people use. Listings mark them as experimental."""
