"""Text: predicts the next character, byte or word."""

from experiments.text.task import Text as Text
