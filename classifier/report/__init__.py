"""What a finished comparison looks like to a reader: one self-contained HTML file."""

from classifier.report.examples import save_examples
from classifier.report.html import signed, write_report

__all__ = ["save_examples", "signed", "write_report"]
