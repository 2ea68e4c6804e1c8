"""Attention benchmark: how fast and how accurate sagegen's kernels are, beside their peers on the same GPU.

Reading order: shapes, contestant (what is measured), protocol (how), platform (on what), accuracy, results,
report. Nothing here needs more than the standard library; platform_torch and the peers need PyTorch.
"""
