"""Backend of SQAL, the quality control of foie gras: durable ingest, grading, fleet view."""
