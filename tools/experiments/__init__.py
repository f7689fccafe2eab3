"""What the experiments of the claims run: ablation (ablation*.py), layer sweep, probes of words."""
