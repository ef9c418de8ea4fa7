"""Image diffusion in parallel rounds: scikit-learn's handwritten digits, a small ``UNet2DModel``.

``python -m examples.images --output DIR`` trains networks and heads, measures, and leaves a page.
"""
