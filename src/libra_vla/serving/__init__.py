"""Serving: policies and planners behind a socket, in openpi's wire format. No pickle anywhere."""
