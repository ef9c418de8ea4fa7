"""Observations in, action chunk out: the policy, its folder and its normalisers."""
