"""Experimental training methods: research methods that few people use, marked as such in listings."""
