"""Data: LeRobot v3.0 datasets in and out, and the frames that training reads."""
