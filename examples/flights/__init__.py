"""All departures from New York in January 2013, through two groups and a second stream."""

from examples.flights.handlers import app

__all__ = ["app"]
