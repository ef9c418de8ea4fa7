"""What is solved: samplers as affine maps ``X = F + M D(X)``, and the denoiser in them."""
