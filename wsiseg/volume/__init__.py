"""What only volumes need: the frame of a scan, intensities, preparation, fused export, NIfTI."""
