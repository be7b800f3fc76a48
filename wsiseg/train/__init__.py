"""Training: patches from annotated regions, augmentation, losses, a loop, cross-validation."""
