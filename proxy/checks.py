"""System checks. (None yet.)"""
