"""Dynamo's planners: the stock thresholds, the SLA loops, and the classic form."""
