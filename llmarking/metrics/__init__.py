"""Agreement, baselines and intervals: plain numbers from arrays, and nothing else."""
