from tests.shapes import checked as checked
