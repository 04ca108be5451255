"""What is well and what isn't, in plain words: the machine, the stored data, and whether the two suit each other."""

from server.doctor.checks import Check, Health
from server.doctor.examination import Report, examine
from server.doctor.subject import Subject, served, stored

__all__ = ["Check", "Health", "Report", "Subject", "examine", "served", "stored"]
