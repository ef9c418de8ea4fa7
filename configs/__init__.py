"""The hydra configuration tree (pkg://pcm_policy.configs)."""
