"""What is measured, and how; results are committed with machine and date."""
