"""Sentiment: says what is felt in a text."""

from experiments.sentiment.task import Sentiment as Sentiment
